"""The short way: ordinary requests to hot routes, from the socket to their handlers and back.

gunicorn takes the requests of a connection from a `Connection`, one after another. Before that gives it one, it answers
those that it can itself, through the driver and the handlers of the route table, as Flask's way does. Most of what a
small request costs is saved: gunicorn's parser, WSGI's environment, Flask's routing and contexts.

Why a request means the same on both ways:

- llhttp (`httptools`) reads the head, and a request is taken only if it is ordinary: `heads.ordinary` and
  `FastPath.find` say what that is. It is a part of what gunicorn accepts, in which the two parsers cannot differ.
- Everything else goes back, byte for byte, to gunicorn's parser, which has read nothing of it: malformed requests,
  whatever arrives slowly, bodies that are large or of unknown length. It is the one that words errors and keeps time.
- A request is given back or answered, never both: nothing is given back once its handler has been called.
"""

import time
from contextlib import closing
from http import HTTPStatus
from typing import Any, Protocol

from gevent.hub import get_hub
from gevent.socket import wait_read
from gunicorn.http import RequestParser
from gunicorn.http.wsgi import SERVER
from gunicorn.util import close_graceful, http_date

from carryover.api import driver
from carryover.api.bodies import Bodies
from carryover.api.inbound import HEADERS, Inbound
from carryover.api.response import NO_SNIFFING, Response
from carryover.api.route import Route
from carryover.api.routes import ROUTES
from carryover.api.sending import send
from carryover.engine import Engine
from carryover.server.heads import KnownHeaders, ordinary
from carryover.server.paths import patterns
from carryover.server.waits import IdleError, Waits

MAX_HEAD = 4096
MAX_HEADERS = 50
MAX_BODY = 64 * 1024
"""Bytes of a body; larger ones gain little."""
_PIECE = 16 * 1024
_PATIENCE = 1.0
"""Seconds in which a body must arrive."""
_HEADERS = tuple((name, name.encode()) for name in HEADERS)
_END = b"\r\n\r\n"
_READ = 1
"""What a watcher of gevent's loop waits for: that there is something to read."""


class Serving(Protocol):
    """What the short way needs of its worker: whether it goes on, where to wait, and to count what it has answered."""

    alive: bool
    waits: Waits

    def count(self) -> None:
        """Count a request."""


class FastPath:
    """The short way of one worker; `cfg` is gunicorn's configuration, whose limits hold here as well.

    With `pages`, requests of pages of other origins are not ordinary: their responses have more headers.
    """

    pages = False

    def __init__(self, worker: Serving, engine: Engine, bodies: Bodies, cfg: Any, send_timeout: float) -> None:
        self._worker = worker
        self._engine = engine
        self._bodies = bodies
        self._send_timeout = send_timeout
        self._max_head = _least(MAX_HEAD, cfg.limit_request_line, cfg.limit_request_field_size)
        self._max_headers = _least(MAX_HEADERS, cfg.limit_request_fields)
        self._paths, self._matched = patterns([route for route in ROUTES if route.hot])
        self._known = KnownHeaders()
        self._second = 0
        self._starts: dict[tuple[int, str], str] = {}

    def serve(self, sock: Any, data: bytes) -> bytes | None:
        """Answer requests for as long as they are ordinary, and return what gunicorn is to read.

        `data` has been received already. None: the connection is to be closed.
        """
        with closing(get_hub().loop.io(sock.fileno(), _READ)) as readable:
            return self._serve(sock, data, readable)

    def _serve(self, sock: Any, data: bytes, readable: Any) -> bytes | None:
        worker, wait, answered = self._worker, get_hub().wait, False
        while True:
            if not data:
                with worker.waits:
                    if answered:  # not at once: requests that others have sent meanwhile join its batch
                        wait(readable)
                    data = sock.recv(_PIECE)
            end = data.find(_END) + len(_END)
            found = self.find(data[:end]) if len(_END) < end <= self._max_head else None
            if found is None:
                return data
            route, inbound, length = found
            data = self._received(sock, data, end + length)
            if len(data) < end + length:
                return data
            inbound.body, data = data[end : end + length], data[end + length :]
            worker.count()
            response = driver.respond(route, self._engine, inbound)
            last = not worker.alive
            self._send(sock, response, inbound.request_id, "close" if last else "keep-alive")
            if last:
                close_graceful(sock)
                return None
            answered = True

    def find(self, head: bytes) -> tuple[Route, Inbound, int] | None:
        """Return the request that has this head, without its body, and how long that is; None if it is not ordinary.

        Headers that were ordinary before are not read again.
        """
        end = head.find(b"\r\n")
        line, fields = head[:end], head[end:]
        known = None if b"?" in line else self._known.find(fields)
        if known is None or not (line.startswith(b"POST ") and line.endswith(b" HTTP/1.1")):
            return self._read(head, fields)
        return self._routed(line[5:-9].decode("latin-1"), "", *known)

    def _read(self, head: bytes, fields: bytes) -> tuple[Route, Inbound, int] | None:
        """Read a head of which nothing is known."""
        parsed = ordinary(head)
        if parsed is None:
            return None
        headers = parsed.headers
        length = int(headers[b"content-length"])
        path, _, query = parsed.target.decode().partition("?")
        if "#" in query or len(headers) > self._max_headers:
            return None
        if length > MAX_BODY or length > self._bodies.limit or (self.pages and b"origin" in headers):
            return None
        held = {name: headers[raw].decode() for name, raw in _HEADERS if raw in headers}
        self._known.add(fields, held, length)
        return self._routed(path, query, held, length)

    def _routed(self, path: str, query: str, held: dict[str, str], length: int) -> tuple[Route, Inbound, int] | None:
        matched = self._paths.fullmatch(path)
        if matched is None:
            return None
        route, names, groups = self._matched[matched.lastindex or 0]
        named = dict(zip(names, matched.group(*groups), strict=False))
        return route, Inbound("POST", path, query, named, held, self._bodies.limit), length

    def _received(self, sock: Any, data: bytes, size: int) -> bytes:
        """Receive until there are `size` bytes, or too much time has passed."""
        missing = size - len(data)
        if missing <= 0:
            return data
        bodies, until = self._bodies, time.monotonic() + _PATIENCE
        if bodies.held + missing > bodies.budget:
            return data
        bodies.held += missing
        try:
            while len(data) < size:
                wait_read(sock.fileno(), max(0.0, until - time.monotonic()))
                piece = sock.recv(max(_PIECE, size - len(data)))
                if not piece:
                    break
                data += piece
        except TimeoutError:
            pass
        finally:
            bodies.held -= missing
        return data

    def _send(self, sock: Any, response: Response, request_id: str, connection: str) -> None:
        lines = "".join([f"{name}: {value}\r\n" for name, value in response.fields()])
        start = self._start(response.status, connection)
        head = f"{start}X-Request-ID: {request_id}\r\n{lines}\r\n".encode("latin-1")
        send(sock, head + response.content(), self._send_timeout)

    def _start(self, status: int, connection: str) -> str:
        """Return the lines that all such responses start with in this second."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._starts.clear()
        start = self._starts.get((status, connection))
        if start is None:
            start = self._starts[status, connection] = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                f"{': '.join(NO_SNIFFING)}\r\nServer: {SERVER}\r\nDate: {http_date()}\r\nConnection: {connection}\r\n"
            )
        return start


class Connection(RequestParser):  # type: ignore[misc]
    """What gunicorn takes a connection's requests from: those that the short way has not answered."""

    mesg: Any

    def __init__(self, fast_path: FastPath | None, waits: Waits, cfg: Any, sock: Any, address: Any) -> None:
        super().__init__(cfg, sock, address)
        self._fast_path = fast_path
        self._waits = waits
        self._sock = sock

    def __next__(self) -> Any:
        """Return the next request.

        Raises:
            StopIteration: there is none, and the connection is to be closed.

        """
        try:
            if self._fast_path is not None:
                with self._waits:
                    if self.mesg is not None and (self.mesg.should_close() or not self.finish_body()):
                        raise StopIteration
                self.mesg = None
                data = self._fast_path.serve(self._sock, self.unreader.take_buffered())
                if data is None:
                    raise StopIteration
                self.unreader.unread(data)
            with self._waits:
                return super().__next__()
        except IdleError:
            raise StopIteration from None


def _least(*limits: int) -> int:
    """Return the least of gunicorn's limits, among which 0 means none."""
    return min(limit for limit in limits if limit > 0)
