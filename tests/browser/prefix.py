"""A proxy under whose path prefix the service is, which passes on no WebSockets."""

from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType

PREFIX = "/models-of/us"


class Prefix:
    """The proxy, in threads of this process; as a context it gives its port."""

    def __init__(self, target: int) -> None:
        class Handler(_Handler):
            port = target

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> int:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self._server.server_port

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    port = 0

    def _pass_on(self) -> None:
        if not self.path.startswith(f"{PREFIX}/") or "Upgrade" in self.headers:
            self.send_error(404)
            return
        behind = HTTPConnection("127.0.0.1", self.port)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fields = {name: value for name, value in self.headers.items() if name != "Connection"}
        behind.request(self.command, self.path.removeprefix(PREFIX), body, fields)
        response = behind.getresponse()
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name not in ("Connection", "Transfer-Encoding"):
                self.send_header(name, value)
        self.end_headers()
        for piece in iter(lambda: response.read1(65536), b""):
            self.wfile.write(piece)
            self.wfile.flush()
        behind.close()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    do_GET = do_POST = do_PUT = do_DELETE = _pass_on
