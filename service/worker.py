"""gunicorn's gevent worker, taught to end soon: it closes connections on which nothing is going on."""

from types import FrameType, TracebackType
from typing import ClassVar, Literal, Self

import gevent
from gevent.hub import get_hub
from gunicorn.workers.ggevent import GeventWorker

from service import wire

_LAST_CALL = 0.5
"""Seconds between the signal and the closing of idle connections: a request on its way still arrives."""


class _Pause(gevent.Timeout):
    """The wait for the next request of a connection that is kept alive; gunicorn closes it when this is raised."""

    waiting: ClassVar[set["_Pause"]] = set()

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds, False)  # type: ignore[arg-type]  # False: end the block, raise nothing
        self.greenlet = gevent.getcurrent()

    def __enter__(self) -> Self:
        self.waiting.add(self)
        super().__enter__()
        return self

    def end(self) -> None:
        """End the pause now, if it still lasts; runs in the hub."""
        if self in self.waiting:
            self.greenlet.throw(self)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> Literal[True] | None:
        self.waiting.discard(self)
        return super().__exit__(kind, value, traceback)


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves until told to stop; then answers what it has accepted, and no more."""

    def timeout_ctx(self) -> _Pause:
        """Bound the wait for a connection's next request."""
        return _Pause(self.cfg.keepalive)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully, on SIGTERM."""
        super().handle_exit(sig, frame)
        gevent.spawn_later(_LAST_CALL, _drain)


def _drain() -> None:
    for pause in list(_Pause.waiting):
        get_hub().loop.run_callback(pause.end)
    wire.drain()
