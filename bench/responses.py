"""Finding the ends of responses in what a connection receives, and errors in them."""

import re
from abc import abstractmethod
from typing import Protocol

_SUCCESS = b"HTTP/1.1 2"
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
            _check_head(head, tail, _SUCCESS)
            _check_body(tail[:size])
            data = tail[size:]
            done += 1
        self._rest = data
        return done


class _Endless(ResponseReader):
    """One response, whose head is followed by units without end."""

    expected = _SUCCESS

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def feed(self, data: bytes) -> int:
        """Take received bytes and return how many units they complete."""
        data = self._rest + data
        if not self._begun:
            head, end, tail = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = data
                return 0
            _check_head(head, tail, self.expected)
            self._begun, data = True, tail
        done, self._rest = self._take(data)
        return done

    @abstractmethod
    def _take(self, data: bytes) -> tuple[int, bytes]:
        """Return how many units are complete, and what follows them."""


class Lines(_Endless):
    """The lines of newline-delimited JSON, in chunks."""

    def _take(self, data: bytes) -> tuple[int, bytes]:
        # JSON holds no line break, and the chunks' own are \r\n: this ends a line and nothing else.
        lines, end, rest = data.rpartition(b"}\n")
        _check_body(lines)
        return (lines.count(b"}\n") + 1 if end else 0), rest


class Messages(_Endless):
    """The messages of a WebSocket, each of which is a frame of less than 64 KiB."""

    expected = b"HTTP/1.1 101"

    def _take(self, data: bytes) -> tuple[int, bytes]:
        done = start = 0
        while (end := _end(data, start)) <= len(data):
            _check_body(data[start:end])
            start = end
            done += 1
        return done, data[start:]


def _end(data: bytes, start: int) -> int:
    """Where the frame ends that starts there; where less than its head is there, that is behind the data."""
    if len(data) < start + 4:
        return len(data) + 1
    length = data[start + 1]
    return start + (4 + int.from_bytes(data[start + 2 : start + 4]) if length == _TWO_BYTES else 2 + length)


def _check_head(head: bytes, tail: bytes, expected: bytes) -> None:
    if not head.startswith(expected):
        status = head.split(b"\r\n", 1)[0].decode()
        raise LoadError(f"{status}: {tail[:500].decode(errors='replace')}")


def _check_body(body: bytes) -> None:
    if b'"error":' in body:
        raise LoadError(f"a response holds an error: {body[:500].decode(errors='replace')}")
