"""Streams of events: responses that are written when something happens, over a connection that is otherwise silent."""

import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Self

from gevent.event import Event

from carryover.api.duplex import Streams
from carryover.api.transport import draining
from carryover.errors import EventsEndedError

BEAT_SECONDS = 15.0
"""How long nothing is sent at most: what is sent shows whether the client is still there, and that the service is."""


class Following:
    """One stream of events, which whoever has news of any wakes; it is also woken when nothing was sent for long.

    Nothing is read from its client, and it ends when that closes its side of the connection.
    """

    def __init__(self, streams: Streams, environ: dict[str, Any]) -> None:
        self._streams = streams
        self._socket: int = environ["gunicorn.socket"].fileno()
        self._woken = Event()
        self._left = False
        self._ended: EventsEndedError | None = None
        self._opened = self._sent = time.monotonic()
        self._size = 0
        self._events: Generator[bytes] | None = None
        self._report: Callable[[int], None] | None = None
        streams.hangups.watch(self._socket, self._leave)

    def wake(self) -> None:
        """Have whoever takes `chunks` look for news."""
        self._woken.set()

    def chunks(self) -> Iterator[bytes]:
        """Yield nothing at once, and again whenever it is woken, until the client has left.

        Raises:
            EventsEndedError: the stream ends.

        """
        while True:
            yield b""
            self._woken.wait()
            self._woken.clear()
            if self._left:
                return
            if self._ended is not None:
                raise self._ended

    def respond(self, events: Generator[bytes], ended: Callable[[int], None]) -> Self:
        """Send `events`, which takes turns with `chunks`; `ended` is told how many bytes were sent."""
        self._events, self._report = events, ended
        return self

    def __iter__(self) -> Self:
        """Return it: it is an iterator."""
        return self

    def __next__(self) -> bytes:
        """Return what is to be sent next."""
        assert self._events is not None  # noqa: S101 - it responds
        piece = next(self._events)
        self._size += len(piece)
        self._sent = time.monotonic()
        return piece

    def close(self) -> None:
        """End it, when everything is sent or the connection is lost."""
        self._streams.close(self)
        self._streams.hangups.forget(self._socket)
        if self._events is not None:
            self._events.close()
        if self._report is not None:
            self._report(self._size)
            self._report = None

    def check(self, now: float) -> None:
        """End it if it has lasted too long, or the worker ends; wake it if it was silent."""
        limits = self._streams.limits
        if now - self._opened > limits.seconds:
            self._end(f"they have lasted {limits.seconds:g} s (MAX_STREAM_SECONDS)")
        elif draining():
            self._end("the service is stopping")
        elif now - self._sent > BEAT_SECONDS:
            self._woken.set()

    def _leave(self) -> None:
        self._left = True
        self._woken.set()

    def _end(self, reason: str) -> None:
        if self._ended is None:
            self._ended = EventsEndedError(reason)
            self._woken.set()
