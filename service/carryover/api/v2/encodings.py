"""Bodies that are compressed, in and out."""

import zlib
from collections.abc import Callable

from flask import Response, request

from carryover.api.json import content
from carryover.errors import BodyTooLargeError, InvalidInputError, MediaTypeError
from carryover.threads import run_in_thread

# RFC 9110, section 8.4.1: gzip is RFC 1952, deflate is the zlib format of RFC 1950.
_WINDOW = {"gzip": 31, "deflate": 15}
_LEAST = 1024
"""Bytes below which an answer is not worth compressing: it fits a packet as it is."""
_LONG = 64 * 1024
"""Bytes that take long enough for a native thread: zlib releases the GIL."""
_EXPANSION = 1000
"""How many bytes one may become."""
_FAST = 1


def read_body(limit: int) -> bytes:
    """Return the request's body, decompressed; `limit` is the most bytes that it may expand to.

    Raises:
        MediaTypeError: it is compressed in a way that the service does not know.
        BodyTooLargeError: it expands to more than the limit.
        InvalidInputError: it is damaged or incomplete.

    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    data = content()
    if encoding in ("identity", ""):
        return data
    if encoding not in _WINDOW:
        raise MediaTypeError(f"Unsupported compression type: Content-Encoding {encoding:.40} is not gzip or deflate")
    return _elsewhere(len(data) * _EXPANSION, lambda: _expand(data, encoding, limit))


def compress(response: Response) -> Response:
    """Compress an answer, where its client asks for that and it is not small."""
    if (response.content_length or 0) < _LEAST:
        return response
    response.vary.add("Accept-Encoding")
    accepted = request.accept_encodings
    if not accepted:
        return response
    encoding = max(_WINDOW, key=lambda name: accepted[name])
    if accepted[encoding] <= 0 or accepted[encoding] < accepted["identity"]:
        return response
    data = response.get_data()
    packer = zlib.compressobj(_FAST, wbits=_WINDOW[encoding])
    response.set_data(_elsewhere(len(data), lambda: packer.compress(data) + packer.flush()))
    response.headers["Content-Encoding"] = encoding
    return response


def _expand(data: bytes, encoding: str, limit: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=_WINDOW[encoding])
    try:
        body = unpacker.decompress(data, limit + 1)
    except zlib.error:
        raise InvalidInputError(f"the body is not {encoding}, as its Content-Encoding says") from None
    if len(body) > limit:
        raise BodyTooLargeError(f"the body expands to more than {limit} bytes (MAX_BODY_BYTES)")
    if not unpacker.eof:
        raise InvalidInputError(f"the {encoding} body is incomplete: its end is missing")
    if unpacker.unused_data:
        # A second gzip member is not looked for: a body of nothing but members would take for ever.
        raise InvalidInputError(f"there is more in the body after the end of what is compressed as {encoding}")
    return body


def _elsewhere(size: int, work: Callable[[], bytes]) -> bytes:
    """Do work on so many bytes, in a native thread where there are many."""
    if size < _LONG:
        return work()
    return run_in_thread(work)
