"""The Flask application: a rule for each route, in front of the driver. The one place that knows Flask's request."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from flask import Flask, request
from flask import Request as FlaskRequest
from flask import Response as FlaskResponse
from flask.globals import request_ctx
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import BaseConverter, MapAdapter

from carryover.api import driver, metrics, problems, request_ids
from carryover.api.bodies import HELD, Bodies
from carryover.api.cors import Origins
from carryover.api.duplex import Duplex, Streams
from carryover.api.following import Following
from carryover.api.inbound import HEADERS, OF_STREAMS, Inbound
from carryover.api.response import NO_SNIFFING, Response
from carryover.api.route import Route, Scope, Stream
from carryover.api.routes import ROUTES
from carryover.api.websocket import Conversation
from carryover.engine import Engine
from carryover.errors import UnavailableError
from carryover.telemetry.request_log import Entry

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_STATUS_LINES = {int(status): f"{int(status)} {status.phrase}" for status in HTTPStatus}
_ADMIN = Scope.ADMIN
_STARTED = "carryover.started"
"""Where in a request's environ it is written when Flask began to look for its route."""
_NOT_OFFERED = ("sharedmemory", "/trace/setting", "/v2/logging")
"""What is in the paths of Triton's extensions that the service does not have."""
_STREAMS: dict[Stream, type[Duplex | Following]] = {
    Stream.LINES: Duplex,
    Stream.MESSAGES: Conversation,
    Stream.EVENTS: Following,
}


def _in_environ(name: str) -> str:
    """Return what WSGI calls a header."""
    key = name.upper().replace("-", "_")
    return key if name in ("content-type", "content-length") else f"HTTP_{key}"


_IN_ENVIRON = tuple((name, _in_environ(name)) for name in HEADERS)
_OF_STREAMS = tuple((name, _in_environ(name)) for name in OF_STREAMS)


class NameConverter(BaseConverter):
    """A name in a path: it ends before the colon that says what is to be done with it."""

    regex = "(?:(?!:(?:predict|stream|fork|reset)$)[^/])+"


class Application(Flask):
    """Flask, which finds a route by method and path alone: what a client says of the host plays no part."""

    def create_url_adapter(self, request: FlaskRequest | None) -> MapAdapter | None:
        """Return what finds a request's route."""
        if request is None:
            return None
        environ = request.environ
        environ[_STARTED] = time.perf_counter_ns()
        path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")  # as WSGI has it
        if path.startswith("//"):
            path = "/."  # Werkzeug would take several slashes for one
        return self.url_map.bind("", path_info=path, default_method=environ["REQUEST_METHOD"])

    def make_default_options_response(self) -> FlaskResponse:
        """Return which methods a path has."""
        allowed = ", ".join(sorted(request_ctx.url_adapter.allowed_methods()))  # type: ignore[union-attr]
        return _Response(Response(media_type=None, headers=(("Allow", allowed),)), _request_id())


class _Response(FlaskResponse):
    """A response that is complete as it is: Flask's own would look through its headers once more to send it."""

    def __init__(self, response: Response, request_id: str, pieces: Iterable[bytes] = ()) -> None:
        self.plain = response
        self.request_id = request_id
        self._pieces = pieces

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Send it."""
        plain = self.plain
        fields = [NO_SNIFFING, (request_ids.HEADER, self.request_id), *plain.fields()]
        start_response(_STATUS_LINES[plain.status], fields)
        if not isinstance(plain.body, bytes):
            return self._pieces
        return (b"",) if environ["REQUEST_METHOD"] == "HEAD" else (plain.body,)


def create_app(engine: Engine | None = None, bodies: Bodies | None = None, streams: Streams | None = None) -> Flask:
    """Return the application; without an engine, every route says that it does not serve."""
    app = Application("carryover", static_folder=None)
    app.url_map.merge_slashes = False  # a path with a slash too many does not exist, rather than redirect
    app.url_map.converters["name"] = NameConverter
    for route in ROUTES:
        view: Callable[..., FlaskResponse] = _not_served
        if engine is not None and bodies is not None and streams is not None:
            view = partial(_respond, route, engine, bodies, streams)
        for path in route.rules():
            app.add_url_rule(path, route.name, view, methods=[route.method])
    if engine is None:
        app.register_error_handler(HTTPException, _http_error)
    else:
        metrics.count_requests(engine.metrics, ROUTES)
        app.register_error_handler(HTTPException, partial(_counted_error, engine))
    return app


def allow_origins(app: Flask, origins: Origins) -> None:
    """Let pages of these origins use the application."""

    def add(response: FlaskResponse) -> FlaskResponse:
        assert isinstance(response, _Response)  # noqa: S101 - the application makes no others
        response.plain = response.plain.with_headers(*origins.headers(request.environ, response.plain))
        return response

    app.after_request(add)


def _respond(route: Route, engine: Engine, bodies: Bodies, streams: Streams, **parameters: str) -> FlaskResponse:
    environ = request.environ
    headers: dict[str, str] = {}
    for name, key in _IN_ENVIRON:
        if key in environ:
            headers[name] = environ[key]
    path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
    inbound = Inbound(environ["REQUEST_METHOD"], path, query, parameters, headers, bodies.limit)
    if route.scope is _ADMIN:
        inbound.local = _is_local(environ)
    if route.streams:
        headers.update((name, environ[key]) for name, key in _OF_STREAMS if key in environ)
        if environ["SERVER_PROTOCOL"] == "HTTP/1.0":  # which has no Upgrade
            headers.pop("upgrade", None)
        return _stream(route, engine, streams, inbound)
    try:
        response = driver.respond(route, engine, inbound, partial(bodies.read, environ))
        return _Response(response, inbound.request_id)
    finally:
        if HELD in environ:
            bodies.release(environ)


def _is_local(environ: dict[str, Any]) -> bool:
    """Whether a client is on this machine; of one behind a proxy, that is not known."""
    if "HTTP_FORWARDED" in environ or "HTTP_X_FORWARDED_FOR" in environ:
        return False
    try:
        address = ip_address(environ.get("REMOTE_ADDR", "").partition("%")[0])
    except ValueError:  # a Unix socket, behind which is a proxy
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _stream(route: Route, engine: Engine, streams: Streams, inbound: Inbound) -> FlaskResponse:
    opened: list[Duplex | Following] = []
    started = time.perf_counter_ns()

    def start() -> bytes:
        assert route.streams is not None  # noqa: S101 - that is why this is called
        if route.streams is Stream.MESSAGES:
            streams.origins.require(request.environ)
        stream = streams.open(request.environ, _STREAMS[route.streams])
        opened.append(stream)
        inbound.chunks, inbound.wake = stream.chunks(), stream.wake
        return b""

    response = driver.respond(route, engine, inbound, start)
    if not isinstance(response.body, bytes) and inbound.method == "HEAD":
        response.body.close()
        response = replace(response, body=b"")
    if not isinstance(response.body, bytes):

        def ended(size: int) -> None:
            if response.status >= engine.request_log.least_status:
                spent = time.perf_counter_ns() - started
                engine.request_log.add(driver.entry(route, inbound, response, spent, size))

        return _Response(response, inbound.request_id, opened[0].respond(response.body, ended))
    for stream in opened:
        stream.close()
    return _Response(response, inbound.request_id)


def _not_served(**_: str) -> FlaskResponse:
    error = UnavailableError("this application has no engine; start the service with `carryover serve`")
    made = _request_id()
    return _Response(problems.response(error, request.path, made), made)


def _request_id() -> str:
    return request_ids.of(request.environ.get("HTTP_X_REQUEST_ID"))


def _counted_error(engine: Engine, error: HTTPException) -> FlaskResponse:
    response = _http_error(error)
    spent = time.perf_counter_ns() - request.environ[_STARTED]
    metrics.count_other(
        engine,
        Entry(
            request_id=response.request_id,
            method=f"{request.method:.20}",
            route=metrics.OTHER,
            status=response.plain.status,
            duration=spent,
            size=len(response.plain.content()),
            path=request.path,
        ),
    )
    return response


def _http_error(error: HTTPException) -> _Response:
    status = HTTPStatus(error.code or 500)
    headers: tuple[tuple[str, str], ...] = ()
    sentence: Any = error.description or status.description
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        sentence, headers = (
            f"the method {request.method:.20} is not allowed here; expected {allowed}",
            (("Allow", allowed),),
        )
    elif status == HTTPStatus.NOT_FOUND:
        sentence = "there is nothing at this path; /docs shows the interface"
        if any(part in request.path for part in _NOT_OFFERED):
            sentence += ", which has no shared memory, and no trace or log settings"
    made = _request_id()
    return _Response(problems.of_status(status, sentence, request.path, made).with_headers(*headers), made)
