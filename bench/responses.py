"""Finding the ends of responses in what a connection receives, and errors in them."""

import re
from typing import Protocol

_TWO_BYTES = 126
"""What stands for a frame's length if that is in the two bytes that follow."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadError(Exception):
    """A response is not what a measurement may count."""


class ResponseReader(Protocol):
    """The responses of one connection."""

    def feed(self, data: bytes) -> int:
        """Take received bytes and return how many responses they complete.

        Raises:
            LoadError: one of them is an error.

        """


class Responses(ResponseReader):
    """HTTP responses with a Content-Length, one after another."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """Take received bytes and return how many responses they complete."""
        data = self._rest + data
        done = 0
        while True:
            head, end, tail = data.partition(b"\r\n\r\n")
            if not end:
                break
            length = _LENGTH.search(head)
            if length is None:
                raise LoadError(f"a response without a length: {head!r}")
            size = int(length[1])
            if len(tail) < size:
                break
            _check_head(head, tail)
            _check_body(tail[:size])
            data = tail[size:]
            done += 1
        self._rest = data
        return done


class Lines(ResponseReader):
    """The lines of one endless response of newline-delimited JSON, in chunks."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def feed(self, data: bytes) -> int:
        """Take received bytes and return how many lines they complete."""
        data = self._rest + data
        if not self._begun:
            head, end, tail = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = data
                return 0
            _check_head(head, tail)
            self._begun, data = True, tail
        # JSON holds no line break, and the chunks' own are \r\n: this ends a line and nothing else.
        lines, end, self._rest = data.rpartition(b"}\n")
        if not end:
            return 0
        _check_body(lines)
        return lines.count(b"}\n") + 1


class Messages(ResponseReader):
    """The messages of a WebSocket, each of which is a frame of less than 64 KiB."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def feed(self, data: bytes) -> int:
        """Take received bytes and return how many messages they complete."""
        data = self._rest + data
        if not self._begun:
            head, end, tail = data.partition(b"\r\n\r\n")
            if end:
                _check_head(head, tail, b"HTTP/1.1 101")
                self._begun, data = True, tail
        done = start = 0
        while self._begun and (end_ := _end(data, start)) <= len(data):
            _check_body(data[start:end_])
            start = end_
            done += 1
        self._rest = data[start:]
        return done


def _end(data: bytes, start: int) -> int:
    """Where the frame ends that starts there; where less than its head is there, that is behind the data."""
    if len(data) < start + 4:
        return len(data) + 1
    length = data[start + 1]
    return start + (4 + int.from_bytes(data[start + 2 : start + 4]) if length == _TWO_BYTES else 2 + length)


def _check_head(head: bytes, tail: bytes, expected: bytes = b"HTTP/1.1 2") -> None:
    if not head.startswith(expected):
        status = head.split(b"\r\n", 1)[0].decode()
        raise LoadError(f"{status}: {tail[:500].decode(errors='replace')}")


def _check_body(body: bytes) -> None:
    if b'"error":' in body:
        raise LoadError(f"a response holds an error: {body[:500].decode(errors='replace')}")
