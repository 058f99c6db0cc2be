"""gunicorn's gevent worker, with a prompt graceful stop: it closes idle connections."""

import os
import signal
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any

import gevent
from gunicorn import http, util
from gunicorn.util import close_graceful
from gunicorn.workers import ggevent
from gunicorn.workers.ggevent import GeventWorker

from carryover.api import metrics, problems, request_ids, transport
from carryover.api.response import NO_SNIFFING
from carryover.api.sending import send
from carryover.engine import Engine
from carryover.errors import UnavailableError
from carryover.server.fast_path import Connection, FastPath
from carryover.server.listener import Listener
from carryover.server.waits import Waits
from carryover.telemetry.request_log import Entry

_NOTICE = 1.0
"""Seconds that may pass until a worker notices that it must stop, and no longer accepts connections."""
_RELOAD_SECONDS = 120.0
_CLOSED_AT_A_TIME = 16
"""Idle connections that are closed when a new one finds no file descriptor."""
_NOTHING = nullcontext()
_LAST_CALL = 0.5
"""Seconds between the signal and the closing of idle connections: a request in transit still arrives."""


def _respond_malformed(engine: Engine, sock: Any, status: int, _: str, reason: str) -> None:
    """Respond with problem details to what gunicorn could not parse as a request, or failed to handle."""
    made = request_ids.of(None)
    body = problems.malformed(status, reason, made)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"{': '.join(NO_SNIFFING)}\r\n{request_ids.HEADER}: {made}\r\n"
        f"Content-Type: {problems.PROBLEM}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    other = metrics.OTHER
    entry = Entry(request_id=made, method=other, route=other, status=status, duration=0, size=len(body))
    metrics.count_other(engine, entry)  # before the client can look
    util.write_nonblock(sock, head.encode() + body)


def limit_sending(seconds: float) -> None:
    """Close a connection whose client takes nothing of a response for `seconds`; gunicorn waits for ever."""

    def write_chunk(sock: Any, data: bytes) -> None:
        # A stream's: after half of this it ends by itself, and its last line says why.
        send(sock, b"%X\r\n%s\r\n" % (len(data), data), 2 * seconds)

    def write(sock: Any, data: bytes, chunked: bool = False) -> None:
        if chunked:
            write_chunk(sock, data)
        else:
            send(sock, data, seconds)

    util.write, util.write_chunk = write, write_chunk


ggevent.StreamServer = Listener


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves until told to stop; then responds to the requests it has accepted, and exits."""

    wsgi: Any
    alive: bool

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.waits = Waits()
        self.fast_path: FastPath | None = None

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """Do nothing: `notify` ends the waits for requests."""
        return _NOTHING

    def notify(self) -> None:
        """Tell the arbiter that the worker lives, about every second, and close connections that are idle."""
        super().notify()
        self.waits.end(self.cfg.keepalive if self.alive else _LAST_CALL)

    def requests(self, cfg: Any, sock: Any, address: Any) -> Connection:
        """Return what gunicorn takes a connection's requests from."""
        return Connection(self.fast_path, self.waits, cfg, sock, address)

    def count(self) -> None:
        """Count a request that gunicorn has not seen; after as many as it may handle, the worker ends."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Handle a request; if it is the connection's last, the response reaches a client that is still sending."""
        try:
            handled: bool = super().handle_request(listener_name, req, sock, addr)
        except StopIteration:
            close_graceful(sock)
            raise
        if req.body.failed:
            close_graceful(sock)
            raise StopIteration
        return handled

    def load_wsgi(self) -> None:
        """Load the application.

        A response is the last on its connection if the worker stops, or if the request's body was not read to its end.
        """
        super().load_wsgi()
        application = self.wsgi

        def last(environ: dict[str, Any], start_response: Any) -> Any:
            response = application(environ, start_response)
            if not self.alive or environ["wsgi.input"].failed:
                start_response.__self__.force_close()
            return response

        from carryover.server.storage import configured  # noqa: PLC0415 - it reads the environment
        from carryover.server.wsgi import bodies, engine  # noqa: PLC0415 - as that does

        self.wsgi = last
        util.write_error = partial(_respond_malformed, engine)  # gunicorn's own writes HTML
        http.RequestParser = self.requests  # of HTTP/1, whatever else gunicorn is told to speak
        Listener.free = partial(self.waits.end_oldest, _CLOSED_AT_A_TIME)
        plain = not (self.cfg.is_ssl or self.cfg.accesslog or self.cfg.statsd_host) and self.cfg.proxy_protocol == "off"
        if plain and self.cfg.keepalive:
            self.fast_path = FastPath(self, engine, bodies, self.cfg, configured.send_timeout)
            self.fast_path.pages = bool(configured.origins)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully, on SIGTERM."""
        super().handle_exit(sig, frame)
        gevent.spawn_later(_LAST_CALL, self._drain)

    def _drain(self) -> None:
        self.waits.end(_LAST_CALL)
        transport.drain()


def reload_all(worker: Worker) -> None:
    """Have the arbiter reload the model repository; return when new workers have replaced this one.

    Raises:
        UnavailableError: that takes too long.

    """
    os.kill(worker.ppid, signal.SIGHUP)
    with gevent.Timeout(_RELOAD_SECONDS, UnavailableError("the model repository is still being loaded; retry")):
        while worker.alive:
            gevent.sleep(_LAST_CALL / 10)
    # The other old workers stop at the same time: let them notice that too.
    gevent.sleep(_NOTICE + _LAST_CALL)
