"""Bare connections: requests that are sent in pieces, cut or malformed, and streams."""

import json
import re
import selectors
import socket
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPMessage, parse_headers
from io import BufferedReader
from typing import Any, Self

from tests.support.client import NDJSON, Response, strict_json
from tests.support.waiting import PATIENCE

_REQUEST_LINE = re.compile(rb"[A-Z]+ (\S+) HTTP/")


class Wire:
    """A bare connection: sends what it is told, and reads responses as they come."""

    def __init__(self, port: int, timeout: float = PATIENCE) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader: BufferedReader = self.socket.makefile("rb")
        self._path = ""

    def send(self, data: bytes) -> None:
        if found := _REQUEST_LINE.match(data):
            self._path = found[1].decode("latin-1")
        self.socket.sendall(data)

    def head(self) -> tuple[int, HTTPMessage]:
        """Read a response's status and headers."""
        line = self._reader.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        return int(line.split()[1]), parse_headers(self._reader)

    def response(self) -> Response:
        """Read a whole response."""
        status, headers = self.head()
        return Response(status, headers, self.body(headers), self._path)

    def body(self, headers: HTTPMessage) -> bytes:
        """Read the body of a response that has these headers."""
        if headers.get("Transfer-Encoding") == "chunked":
            return b"".join(iter(self.chunk, b""))
        return self._reader.read(int(headers.get("Content-Length", "0")))

    def chunk(self) -> bytes:
        """Read one chunk of a response's body; empty at its end."""
        line = self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"the connection ended where a chunk should begin: {line!r}")
        data = self._reader.read(int(line, 16))
        if self._reader.readline() != b"\r\n":
            raise ConnectionError("the connection ended within a chunk")
        return data

    def silent(self, seconds: float = 0.05) -> bool:
        """Whether nothing is there to be read, now and a moment later."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            return not self._buffered() and not selector.select(seconds)

    def some(self) -> bytes:
        """Read what is there, and wait for something."""
        return self._reader.read1()

    def rest(self) -> bytes:
        """Read until the other side ends the connection."""
        try:
            return self._reader.read()
        except ConnectionResetError:
            return b""

    def shut(self) -> None:
        """Send nothing more."""
        self.socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Cut the connection with a reset, as a client that crashes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def _buffered(self) -> bool:
        self.socket.setblocking(False)
        try:
            return bool(self._reader.peek(1))
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(PATIENCE)


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return the bytes of a request; the caller's headers frame its body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


class Stream:
    """A `:stream` request in progress; without `length` its body is chunked."""

    def __init__(self, port: int, address: str, length: int | None = None, query: str = "", **headers: str) -> None:
        self.wire = Wire(port)
        self._chunked = length is None
        self._rest = b""
        framing = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
        self.wire.send(request_bytes("POST", f"{address}:stream{query}", {"Content-Type": NDJSON} | framing | headers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the body, where the connection still takes it, and close."""
        with suppress(OSError):
            self.finish()
        self.close()

    def status(self) -> int:
        """Wait for the head of the response."""
        status, headers = self.wire.head()
        assert status >= 300 or headers.get_content_type() == NDJSON
        return status

    def open(self) -> Self:
        """Wait for the head of a response that is not an error."""
        assert (status := self.status()) == 200, status
        return self

    def send(self, data: bytes) -> None:
        """Send bytes of the body, in one chunk."""
        self.wire.send(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """End a chunked body."""
        self.wire.send(b"0\r\n\r\n")

    def line(self) -> Any:
        """Read one line of the response; None at its end."""
        while b"\n" not in self._rest:
            piece = self.wire.chunk()
            if not piece and self._rest:
                raise ConnectionError(f"the response ended within a line: {self._rest!r}")
            if not piece:
                return None
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return strict_json(line)

    def step(self, instances: Any) -> Any:
        """Send a line and wait for the response to it."""
        self.send(line_of(instances))
        return self.line()

    def close(self) -> None:
        self.wire.close()


def line_of(instances: Any) -> bytes:
    """One line of a stream."""
    return json.dumps({"instances": instances}).encode() + b"\n"
