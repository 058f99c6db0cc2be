"""A body in chunks is what gunicorn's parser reads, however it arrives."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from carryover.api.transport import _chunked

HEADS = (b"%x", b"%X", b"0%x", b"%x;name=value", b"%x ", b"-%x")
ENDS = (b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"0\r\n", b"", b"fedcba9876543210\r\nab\r\n0\r\n\r\n")


class Request:
    """What a reader needs of a request."""

    limit_request_field_size = 100
    max_buffer_headers = 200

    def __init__(self, unreader: IterUnreader) -> None:
        self.unreader = unreader
        self.trailers: list[bytes] = []

    def parse_headers(self, data: bytes, *, from_trailer: bool) -> list[bytes]:
        return [data] * from_trailer


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    chunks = draw(st.lists(st.tuples(st.sampled_from(HEADS), st.text("ab\r\n0;", min_size=1, max_size=40))))
    parts = [head % len(text) + b"\r\n" + text.encode() + b"\r\n" for head, text in chunks]
    body = b"".join([*parts, draw(st.sampled_from(ENDS)), draw(st.sampled_from((b"", b"GET / HTTP/1.1\r\n")))])
    if body and draw(st.booleans()):
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.sampled_from((b"", b"\r", b"z", b"0"))) + body[at + draw(st.integers(0, 1)) :]
    return body


def read(receives: Sequence[bytes], pieces: Callable[[Any], Iterator[bytes]]) -> tuple[bytes, Any, bytes, list[bytes]]:
    """The body, how it failed, what is left for the next request, and the trailers."""
    unreader = IterUnreader(receives)
    request = Request(unreader)
    body, failure = b"", None
    try:
        for piece in pieces(ChunkedReader(request, unreader)):
            body += piece
    except (ParseException, OSError) as error:
        failure = type(error), str(error)
    return body, failure, unreader.buf.getvalue() + b"".join(unreader.iter or ()), request.trailers


@given(body=bodies(), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_a_body_in_chunks_is_what_gunicorn_reads(body: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    receives = [part for start, end in itertools.pairwise(places) if (part := body[start:end])]
    assert read(receives, _chunked) == read(receives, lambda reader: reader.parser)


def test_chunks_that_arrive_together_are_one_piece() -> None:
    unreader = IterUnreader([b"1\r\na\r\n" * 64 + b"0\r\n\r\n"])
    assert list(_chunked(ChunkedReader(Request(unreader), unreader))) == [b"a" * 64]
