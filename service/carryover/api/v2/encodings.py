"""Bodies that are compressed, in and out."""

import zlib
from collections.abc import Callable
from dataclasses import replace

from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from carryover.api.inbound import Inbound
from carryover.api.response import Response
from carryover.errors import BodyTooLargeError, InvalidInputError, MediaTypeError
from carryover.threads import run_in_thread

# RFC 9110, section 8.4.1: gzip is RFC 1952, deflate is the zlib format of RFC 1950.
_WINDOW = {"gzip": 31, "deflate": 15}
_LEAST = 1024
"""Bytes below which a response is not worth compressing: it fits a packet as it is."""
_LONG = 64 * 1024
"""Bytes that take long enough for a native thread: zlib releases the GIL."""
_EXPANSION = 1000
"""How many bytes one may become."""
_FAST = 1


def decoded_body(inbound: Inbound) -> bytes:
    """Return a request's body, decompressed; the limit of a body is also what it may expand to.

    Raises:
        MediaTypeError: it is compressed in a way that the service does not know.
        BodyTooLargeError: it expands to more than the limit.
        InvalidInputError: it is damaged or incomplete.

    """
    encoding = inbound.headers.get("content-encoding", "identity").strip().lower()
    data, limit = inbound.body, inbound.max_bytes
    if encoding in ("identity", ""):
        return data
    if encoding not in _WINDOW:
        raise MediaTypeError(
            f"Unsupported compression type: expected Content-Encoding gzip or deflate, got {encoding:.40}"
        )
    return _run(len(data) * _EXPANSION, lambda: _expand(data, encoding, limit))


def compressed(response: Response, inbound: Inbound) -> Response:
    """Return a response, compressed where its client asks for that and it is not small."""
    data = response.content()
    if len(data) < _LEAST:
        return response
    response = response.with_headers(("Vary", "Accept-Encoding"))
    accepted = parse_accept_header(inbound.headers.get("accept-encoding", ""), Accept)
    encoding = max(_WINDOW, key=lambda name: accepted[name])
    if not accepted or accepted[encoding] <= 0 or accepted[encoding] < accepted["identity"]:
        return response
    packer = zlib.compressobj(_FAST, wbits=_WINDOW[encoding])
    packed = _run(len(data), lambda: packer.compress(data) + packer.flush())
    return replace(response, body=packed).with_headers(("Content-Encoding", encoding))


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
        raise InvalidInputError(f"the body has data after the end of its {encoding} stream")
    return body


def _run(size: int, work: Callable[[], bytes]) -> bytes:
    """Do work on so many bytes, in a native thread where there are many."""
    if size < _LONG:
        return work()
    return run_in_thread(work)
