"""The waits for clients to send their next request, which the worker may end."""

import time
from itertools import islice
from types import TracebackType

import gevent
from gevent.hub import get_hub
from greenlet import greenlet


class IdleError(Exception):
    """The client sent no request in time, or the worker needs the connection: it is to be closed."""


class Waits:
    """The waits of a worker's connections, each of which is a `with` block that `IdleError` may end."""

    def __init__(self) -> None:
        # When each greenlet began to wait, in seconds of `time.monotonic`; the longest wait first.
        self._since: dict[greenlet, float] = {}

    def __enter__(self) -> None:
        self._since[gevent.getcurrent()] = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self._since[gevent.getcurrent()]

    def end(self, seconds: float) -> None:
        """End all waits that have lasted for so long."""
        before = time.monotonic() - seconds
        for waiter, since in self._since.items():
            if since > before:
                break
            self._end(waiter, since)

    def end_oldest(self, count: int) -> None:
        """End so many of them."""
        for waiter, since in islice(self._since.items(), count):
            self._end(waiter, since)

    def _end(self, waiter: greenlet, since: float) -> None:
        get_hub().loop.run_callback(self._throw, waiter, since)

    def _throw(self, waiter: greenlet, since: float) -> None:
        # In the hub, where nothing can come between the look and the throw. It may wait for another request by now.
        if self._since.get(waiter) == since:
            waiter.throw(IdleError())
