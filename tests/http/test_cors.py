"""Pages of the origins that a setting lists may use every route; without it, no response has a header for them."""

import re
from collections.abc import Iterator

import pytest

from carryover.api.cors import Origins
from carryover.api.inbound import HEADERS
from carryover.api.response import Response
from carryover.api.route import Route
from carryover.api.routes import ROUTES
from tests.support.client import Client, problem
from tests.support.connections import Wire
from tests.support.service import Service
from tests.support.sockets import UPGRADE, speak, talking

ORIGIN = "https://a.example"
STEP = b'{"instances": [[0, 0, 7, 15, 13, 1, 0, 0]]}'


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("cors"), CORS_ORIGINS=f"{ORIGIN}, http://localhost:3000") as running:
        yield running


@pytest.fixture
def page(open_service: Service) -> Iterator[Client]:
    with open_service.client() as client:
        yield client


def path_of(route: Route) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: f"no-such-{found[1]}", route.template)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_page_may_use_every_route(page: Client, route: Route) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": route.method}
    allowed = page.request("OPTIONS", path_of(route), headers=asked)
    assert allowed.status == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert route.method in allowed.headers["Access-Control-Allow-Methods"].split(", ")
    headers = allowed.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {*HEADERS, "last-event-id", "tracestate"} - {"accept", "accept-encoding"} == set(headers)
    response = page.request(route.method, path_of(route), None if route.method == "GET" else b"{", {"Origin": ORIGIN})
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    readable = set(response.headers["Access-Control-Expose-Headers"].split(", "))
    assert {"ETag", "Location", "Idempotency-Replayed", "Server-Timing", "traceparent", "X-Request-ID"} <= readable
    assert "Origin" in response.headers.get_all("Vary", [])


@pytest.mark.parametrize("origin", ["https://b.example", "http://a.example", "null", "https://a.example.evil"])
def test_pages_of_other_origins_may_not(page: Client, origin: str) -> None:
    for method in ("OPTIONS", "GET"):
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        response = page.request(method, "/v1/models", headers=asked)
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Vary"] == "Origin"


def test_each_origin_is_told_that_it_is_the_one(page: Client) -> None:
    for origin in (ORIGIN, "http://localhost:3000"):
        response = page.request("POST", "/v1/models/digits-rnn:predict", STEP, {"Origin": origin})
        response.expect()
        assert response.headers.get_all("Access-Control-Allow-Origin") == [origin]
        assert "Access-Control-Allow-Credentials" not in response.headers
    assert page.request("GET", "/nowhere", headers={"Origin": ORIGIN}).headers["Access-Control-Allow-Origin"] == ORIGIN


def test_a_page_may_read_every_header_that_a_response_has_for_it(page: Client) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-00"
    asked = {"Origin": ORIGIN, "Prefer": "server-timing", "traceparent": trace, "Content-Type": "application/json"}
    readable = {"content-type", "content-length", "cache-control"}  # as Fetch has it
    about = {"server", "date", "connection", "vary", "x-content-type-options"}  # for whoever passes it on
    path = page.create("digits-rnn")
    for method, suffix, body in (("POST", ":predict", STEP), ("POST", ":fork", b""), ("GET", "/state", None)):
        response = page.request(method, path + suffix, body, asked)
        assert response.status < 300
        named = {name.lower() for name in response.headers if not name.startswith("Access-Control")}
        exposed = response.headers["Access-Control-Expose-Headers"].lower().split(", ")
        assert named - readable - about <= set(exposed)
        assert "server-timing" in named


def test_a_stream_of_a_page_has_the_headers_too(page: Client) -> None:
    path = page.create("digits-rnn")
    headers = {"Origin": ORIGIN, "Content-Type": "application/x-ndjson"}
    response = page.request("POST", f"{path}:stream", STEP + b"\n", headers)
    assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)


def test_a_page_may_open_a_websocket_and_no_page_of_another_origin(open_service: Service, page: Client) -> None:
    path = page.create("digits-rnn")
    with talking(open_service.port, path, headers={"Origin": ORIGIN}) as socket:
        assert speak(socket, [[0, 0, 7, 15, 13, 1, 0, 0]])["step"] == 1
    for origin in ("https://b.example", "http://a.example", "null", f"http://localhost:{open_service.port + 1}"):
        response = page.request("GET", f"{path}:stream", headers=UPGRADE | {"Origin": origin})
        assert "CORS_ORIGINS" in problem(response, 403)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_without_the_setting_no_response_has_a_header_for_pages(client: Client, route: Route) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": route.method}
    for method in ("OPTIONS", route.method):
        response = client.request(method, path_of(route), b"{" if method == "POST" else None, asked)
        assert not [name for name in response.headers if name.lower().startswith("access-control")]
        assert response.headers.get_all("X-Content-Type-Options") == ["nosniff"]


def test_what_is_no_request_is_not_to_be_guessed_at_either(service: Service) -> None:
    wire = Wire(service.port)
    wire.send(b"GET / HTTP/9.9\r\n\r\n")
    assert wire.response().headers["X-Content-Type-Options"] == "nosniff"
    wire.close()


def test_any_origin_may_be_allowed() -> None:
    Origins(frozenset({"*"})).require({"HTTP_ORIGIN": "null"})
    added = dict(Origins(frozenset({"*"})).headers({"HTTP_ORIGIN": "null", "REQUEST_METHOD": "GET"}, Response()))
    assert added["Access-Control-Allow-Origin"] == "*"
