"""What WSGI has no words for: reading a request's body as it arrives, and ending what waits when the worker ends."""

from collections.abc import Iterator
from typing import Any

import gevent
from gevent.hub import get_hub
from gevent.queue import Queue
from greenlet import greenlet
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.errors import NoMoreData, ParseException

AHEAD = 64
"""Pieces that are read ahead of whoever takes them, at most; gunicorn reads 8 kB at a time."""

BROKEN = (OSError, ParseException)
"""What reading raises when the connection breaks, or its chunks are malformed; gunicorn's NoMoreData is an OSError."""

_waiting: set[greenlet] = set()
_drained = False


class CutShortError(Exception):
    """The connection, or the worker, ended before the body did; or what came is no body."""


class _DrainedError(Exception):
    """The worker ends: stop waiting for the client."""


def iter_body(environ: dict[str, Any]) -> Iterator[bytes]:
    """Yield a request's body as it arrives: at each turn all that has come since the last one, waiting for something.

    Raises:
        CutShortError: the connection or the worker ends before the body does, or its chunks are malformed.

    """
    queue: Queue[bytes | Exception] = Queue(AHEAD)
    reader = gevent.spawn(_read_ahead, environ, queue)
    try:
        while True:
            pieces = [_taken(queue)]
            while not queue.empty() and isinstance(queue.peek(), bytes):
                pieces.append(_taken(queue))
            yield b"".join(pieces)
    except EOFError:
        return
    finally:
        reader.kill(block=False)


def _taken(queue: "Queue[bytes | Exception]") -> bytes:
    item = queue.get()
    if isinstance(item, Exception):
        raise item
    return item


def _read_ahead(environ: dict[str, Any], queue: "Queue[bytes | Exception]") -> None:
    """Put the pieces of a request's body into the queue, and at last EOFError, or what broke them off."""
    try:
        for piece in _until_drained(environ["wsgi.input"]):
            queue.put(piece)
    except Exception as error:  # noqa: BLE001 - it is raised where the pieces are taken
        queue.put(error)
    else:
        queue.put(EOFError())


def pieces(body: Body) -> Iterator[bytes]:
    """Yield the pieces of a request's body, what one receive brings.

    gunicorn's `read` and `readline` return only when all that was asked for is there, and ask for at least 1,024 bytes:
    a client that waits for a response before it sends more would wait for ever. Its readers, one level below, do not.
    """
    reader = body.reader
    return reader.parser if isinstance(reader, ChunkedReader) else _sized(reader)


def _until_drained(body: Body) -> Iterator[bytes]:
    """Yield the pieces of a request's body until the worker ends."""
    arriving = pieces(body)
    waiter = gevent.getcurrent()
    while True:
        _waiting.add(waiter)
        try:
            if _drained:
                raise _DrainedError
            piece = next(arriving, None)
        except (_DrainedError, *BROKEN):
            body.failed = True  # what follows on this connection is unknown: gunicorn closes it after the response
            raise CutShortError from None
        finally:
            _waiting.discard(waiter)
        if piece is None:
            return
        yield piece


def drain() -> None:
    """End every wait in `iter_body`, now and from now on: what has come so far is all that comes."""
    global _drained  # noqa: PLW0603 - as there is one worker in a process
    _drained = True
    for waiter in list(_waiting):
        get_hub().loop.run_callback(_end, waiter)


def _end(waiter: greenlet) -> None:
    # In the hub, where nothing can come between the look and the throw.
    if waiter in _waiting:
        waiter.throw(_DrainedError())


def _sized(reader: Any) -> Iterator[bytes]:
    """The pieces of a body whose length is known: what one receive brings, never more than the body's rest."""
    unreader = reader.unreader
    while reader.length > 0:
        data = unreader.read(read_ahead=reader.length)
        if not data:
            raise NoMoreData
        unreader.unread(data[reader.length :])
        data = data[: reader.length]
        reader.length -= len(data)
        yield data
