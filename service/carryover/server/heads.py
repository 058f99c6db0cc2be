"""The heads of requests that are ordinary: what gunicorn's parser and llhttp cannot read in two ways.

That is printable ASCII in whole lines, no header twice, and none that changes where the body ends, who the client is or
how it is to be answered.
"""

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

_UNUSUAL = frozenset(
    (
        b"content-encoding", b"expect", b"forwarded", b"http2-settings", b"keep-alive", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"x-forwarded-protocol", b"x-forwarded-ssl",
    )
)  # fmt: skip
"""Headers that change how a request is to be read or answered, beside `Connection`.

`X-Forwarded-Proto` is none: alone it contradicts no other, and no hot route reads the scheme.
"""
_NOT_PLAIN = re.compile(rb"[^\r\n -~]| \r|\r(?!\n)|(?<!\r)\n")
_LENGTH = re.compile(rb"[0-9]{1,9}")


class Head:
    """The head of a request, as llhttp reads it; `unique` says that it has no header twice."""

    __slots__ = ("headers", "target", "unique")

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.target = b""
        self.unique = True

    def on_url(self, target: bytes) -> None:
        """Take a piece of the request's target."""
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        name = name.lower()
        if name in self.headers:
            self.unique = False
        self.headers[name] = value


def ordinary(head: bytes) -> Head | None:
    """Return the head of an ordinary POST; None of any other request."""
    if not head.startswith(b"POST /") or _NOT_PLAIN.search(head) is not None:
        return None
    parsed = Head()
    parser = HttpRequestParser(parsed)
    try:
        parser.feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        return None
    headers = parsed.headers
    named = (
        head.startswith(b"POST %b HTTP/1.1\r\n" % parsed.target)
        and parsed.unique
        and b"_" not in b"".join(headers)
        and _LENGTH.fullmatch(headers.get(b"content-length", b"")) is not None
        and headers.pop(b"connection", b"keep-alive").lower() == b"keep-alive"
    )
    return parsed if named and _UNUSUAL.isdisjoint(headers) else None
