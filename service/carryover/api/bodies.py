"""Reading the bodies of requests whole, in bounded time and memory."""

from typing import Any

import gevent
from gevent.hub import get_hub
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.errors import NoMoreData

from carryover.api.transport import BROKEN, pieces
from carryover.errors import BodyTooLargeError, InvalidInputError, SlowClientError, UnavailableError

PROGRESS = 256 * 1024
"""Bytes that must arrive in each `BODY_TIMEOUT`, of a body that has not ended by then."""
HELD = "carryover.held"
"""Where in a request's environ it is written how many bytes of `Bodies.held` are its own."""


class _SlowError(Exception):
    """Too little of the body has arrived in time."""


class Bodies:
    """The bodies that a worker receives.

    A body has at most `limit` bytes. It arrives in `timeout` seconds, or a further `PROGRESS` bytes of it do: then it
    has as long again. All together have at most `budget` bytes, which are counted until `release`. What has arrived
    together with a request's head is not counted; gunicorn holds it anyway.
    """

    def __init__(self, limit: int, timeout: float, budget: int) -> None:
        self.limit = limit
        self.timeout = timeout
        self.budget = max(budget, limit)
        self.held = 0

    def read(self, environ: dict[str, Any]) -> bytes:
        """Return a request's body.

        Raises:
            BodyTooLargeError: it has more than `limit` bytes, announced or not.
            InvalidInputError: it ended before its end, or is malformed.
            SlowClientError: it arrives too slowly.
            UnavailableError: the worker holds too much of other bodies.

        """
        announced = environ.get("CONTENT_LENGTH")
        if announced is not None and int(announced) > self.limit:
            raise self._too_large()
        body = environ["wsgi.input"]
        reader = getattr(body, "reader", None)
        if reader is None:  # not gunicorn's: it is in memory
            return body.read(self.limit)  # type: ignore[no-any-return]
        if type(reader) is LengthReader and reader.unreader.buf.tell() >= reader.length:
            return reader.read(reader.length)  # type: ignore[no-any-return]
        return self._receive(environ, body)

    def release(self, environ: dict[str, Any]) -> None:
        """Count what was read of a request's body no longer."""
        self.held -= environ.pop(HELD)

    def _receive(self, environ: dict[str, Any], body: Body) -> bytes:
        data = bytearray()
        timer = _timer(self.timeout, data)
        try:
            for piece in pieces(body):
                self._hold(environ, len(piece))
                data += piece
                if len(data) > self.limit:
                    raise self._too_large()
        except _SlowError:
            body.failed = True  # where the next request starts is unknown: gunicorn closes the connection
            raise SlowClientError(
                f"the body arrives too slowly; expected its end, or {PROGRESS} more bytes, within {self.timeout:g} s "
                f"(BODY_TIMEOUT), got {len(data)} bytes so far"
            ) from None
        except BROKEN as error:
            body.failed = True
            if isinstance(error, NoMoreData) and "CONTENT_LENGTH" in environ:
                expected = environ["CONTENT_LENGTH"]
                raise InvalidInputError(f"the body is incomplete; expected {expected} bytes, got {len(data)}") from None
            raise InvalidInputError("the body broke off before its end, or its chunks are malformed") from None
        finally:
            timer.stop()
            timer.close()
        return bytes(data)

    def _hold(self, environ: dict[str, Any], size: int) -> None:
        if self.held + size > self.budget:
            raise UnavailableError(
                f"this worker is receiving bodies of {self.budget} bytes in all (MAX_INFLIGHT_BYTES); retry"
            )
        self.held += size
        environ[HELD] = environ.get(HELD, 0) + size

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body is larger than {self.limit} bytes (MAX_BODY_BYTES)")


def _timer(seconds: float, data: bytearray) -> Any:
    """Return a timer that raises _SlowError in the current greenlet if `data` grows by too little in `seconds`."""
    waiter = gevent.getcurrent()
    before = 0

    def look() -> None:
        nonlocal before
        if len(data) - before < PROGRESS:
            waiter.throw(_SlowError())
        before = len(data)

    timer = get_hub().loop.timer(seconds, seconds)
    timer.start(look)
    return timer
