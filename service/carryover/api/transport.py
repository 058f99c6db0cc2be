"""What WSGI has no words for: reading a request's body as it arrives, and ending what waits when the worker ends."""

import re
from collections.abc import Iterator
from typing import Any

import gevent
from gevent.hub import get_hub
from greenlet import greenlet
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData, ParseException

from carryover.errors import StreamEndedError

BROKEN = (OSError, ParseException)
"""What reading raises when the connection breaks, or its chunks are malformed; gunicorn's NoMoreData is an OSError."""

_CRLF = b"\r\n"
_NEXT_CHUNK = re.compile(rb"\r\n([1-9a-fA-F][0-9a-fA-F]{0,6})\r\n")
"""The end of a chunk and the head of one that is not the last, without extensions."""

_waiting: set[greenlet] = set()
_drained = False


class CutShortError(Exception):
    """The connection ended before the body did, or what came is no body."""


class _DrainedError(Exception):
    """The worker ends: stop waiting for the client."""


def pieces(body: Body) -> Iterator[bytes]:
    """Return the pieces of a request's body, what one receive brings; to be called once.

    gunicorn's `read` and `readline` return only when all that was asked for is there, and ask for at least 1,024 bytes:
    a client that waits for a response before it sends more would wait for ever. Its readers, one level below, do not.
    """
    reader = body.reader
    if not isinstance(reader, ChunkedReader):
        return _sized(reader)
    chunks = reader.parser = _chunked(reader)  # gunicorn goes on with it, to discard what nobody has read
    return chunks


def upgraded(body: Body) -> Iterator[bytes]:
    """Yield what arrives after a request without a body, which is no HTTP any more, what one receive brings."""
    unreader = body.reader.unreader
    while data := unreader.read():
        yield data


def until_drained(body: Body, arriving: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces of a request's body as they are `arriving`, until the worker ends.

    Raises:
        CutShortError: the connection ends before the body does, or its chunks are malformed.
        StreamEndedError: the worker ends before the body does.

    """
    waiter = gevent.getcurrent()
    while True:
        _waiting.add(waiter)
        try:
            if _drained:
                raise _DrainedError
            piece = next(arriving, None)
        except _DrainedError:
            body.failed = True  # what follows on this connection is unknown: gunicorn closes it after the response
            raise StreamEndedError("the service is stopping") from None
        except BROKEN:
            body.failed = True
            raise CutShortError from None
        finally:
            _waiting.discard(waiter)
        if piece is None:
            return
        yield piece


def draining() -> bool:
    """Whether the worker ends."""
    return _drained


def drain() -> None:
    """End every wait in `until_drained`, now and from now on: what has come so far is all that comes."""
    global _drained  # noqa: PLW0603 - as there is one worker in a process
    _drained = True
    for waiter in list(_waiting):
        get_hub().loop.run_callback(_end, waiter)


def _end(waiter: greenlet) -> None:
    # In the hub, where nothing can come between the look and the throw.
    if waiter in _waiting:
        waiter.throw(_DrainedError())


def _chunked(reader: Any) -> Iterator[bytes]:
    """The pieces of a body in chunks: those that came in one receive, together.

    gunicorn's parser copies what is left of a receive for each chunk in it. Here it only reads the heads of chunks that
    are not plain, and the trailers.
    """
    unreader = reader.req.unreader
    size, data = reader.parse_chunk_size(unreader)
    while size > 0:
        complete: list[bytes] = []
        start = 0
        while start + size < len(data) and (found := _NEXT_CHUNK.match(data, start + size)):
            complete.append(data[start : start + size])
            start, size = found.end(), int(found[1], 16)
        data = data[start:]
        while size > len(data):
            complete.append(data)
            yield b"".join(complete)
            complete, size = [], size - len(data)
            data = unreader.read(read_ahead=size)
            if not data:
                raise NoMoreData
        yield b"".join([*complete, data[:size]])
        data = data[size:]
        while len(data) < len(_CRLF) and (more := unreader.read()):
            data += more
        if not data.startswith(_CRLF):
            raise ChunkMissingTerminator(data[: len(_CRLF)])
        size, data = reader.parse_chunk_size(unreader, data=data[len(_CRLF) :])


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
