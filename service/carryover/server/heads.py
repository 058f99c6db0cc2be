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
_VARYING = re.compile(rb"\r\n((?i:idempotency-key|if-match|traceparent|x-request-id)): ([!-~]++)(?=\r\n)")
"""Headers whose values differ from request to request, and change nothing of how the rest is read."""
_KNOWN = 1024
"""Different headers that are kept."""


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


class KnownHeaders:
    """What was read of headers that were ordinary: a client's are often the same, byte for byte but for some values."""

    def __init__(self) -> None:
        # By the text between the values that vary: headers, the length of the body, and the names of those values.
        self._known: dict[bytes | tuple[bytes, ...], tuple[dict[str, str], int, tuple[str, ...]]] = {}

    def find(self, fields: bytes) -> tuple[dict[str, str], int] | None:
        """Return headers by name, and the length of the body; None where nothing is known.

        `fields` is the head from the end of its first line on.
        """
        known = self._known.get(fields)
        if known is not None:
            return known[:2]
        parts = _VARYING.split(fields)  # text, name, value, text, ...
        values = parts[2::3]
        del parts[2::3]
        known = self._known.get(tuple(parts))
        if known is None:
            return None
        headers, length, names = known
        return {**headers, **{name: value.decode() for name, value in zip(names, values, strict=True)}}, length

    def add(self, fields: bytes, headers: dict[str, str], length: int) -> None:
        """Keep what was read."""
        if len(self._known) >= _KNOWN:
            self._known.clear()
        parts = _VARYING.split(fields)
        del parts[2::3]
        names = tuple(name.lower().decode() for name in parts[1::2])
        self._known[tuple(parts) if names else fields] = headers, length, names
