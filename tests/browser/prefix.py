"""A proxy under whose path prefix the service is, which passes on no WebSockets."""

from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from threading import Thread
from types import TracebackType
from typing import ClassVar

PREFIX = "/models-of/us"


class Prefix:
    """The proxy, in threads of this process; as a context it gives its port. Its connections end with it."""

    def __init__(self, target: int) -> None:
        self._behind: set[HTTPConnection] = set()

        class Handler(_Handler):
            port = target
            behind = self._behind

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False

    def __enter__(self) -> int:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self._server.server_port

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        for connection in tuple(self._behind):
            with suppress(OSError):
                connection.sock.shutdown(SHUT_RDWR)
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    port = 0
    behind: ClassVar[set[HTTPConnection]]

    def _pass_on(self) -> None:
        if not self.path.startswith(f"{PREFIX}/") or "Upgrade" in self.headers:
            self.send_error(404)
            return
        connection = HTTPConnection("127.0.0.1", self.port)
        self.behind.add(connection)
        try:
            self._exchange(connection)
        except (OSError, HTTPException, ValueError):  # one of the two sides has ended it
            self.close_connection = True
        finally:
            self.behind.discard(connection)
            connection.close()

    def _exchange(self, connection: HTTPConnection) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fields = {name: value for name, value in self.headers.items() if name != "Connection"}
        connection.request(self.command, self.path.removeprefix(PREFIX), body, fields)
        response = connection.getresponse()
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name not in ("Connection", "Transfer-Encoding"):
                self.send_header(name, value)
        self.end_headers()
        for piece in iter(lambda: response.read1(65536), b""):
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    do_GET = do_POST = do_PUT = do_DELETE = _pass_on  # noqa: N815 - the names that http.server calls
