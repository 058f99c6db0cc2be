"""Every response has an id, which the client or a proxy may have chosen; so has every problem document."""

import json
import re

import pytest

from carryover.api.route import Route
from carryover.api.routes import ROUTES
from tests.support.client import Client, problem
from tests.support.connections import Wire
from tests.support.service import Service

HEADER = "X-Request-ID"
MADE = re.compile(r"[0-9a-f]{32}")
UNUSUAL = {"Keep-Alive": "timeout=5"}
"""Headers with which a request is not ordinary: it goes through Flask."""
STEP = json.dumps({"instances": [[0, 0, 7, 15, 13, 1, 0, 0]]}).encode()
PREDICT = "/v1/models/digits-rnn:predict"


@pytest.mark.parametrize("headers", [{}, UNUSUAL], ids=["short", "flask"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_returns_the_id_of_the_request(client: Client, route: Route, headers: dict[str, str]) -> None:
    path = re.sub(r"\{(\w+)\}", lambda found: f"no-such-{found[1]}", route.template)
    body = None if route.method == "GET" else b"{"
    response = client.request(route.method, path, body, headers | {HEADER: "trace-7/e"})
    assert response.headers.get_all(HEADER) == ["trace-7/e"]
    if response.status >= 400:
        problem(response, response.status)
    else:
        assert response.status == 200
    made = [client.request(route.method, path, body, headers).headers[HEADER] for _ in range(2)]
    assert all(map(MADE.fullmatch, made))
    assert made[0] != made[1]


@pytest.mark.parametrize("headers", [{}, UNUSUAL], ids=["short", "flask"])
@pytest.mark.parametrize("given", ["a", "!~", "x" * 128, 'a"\\b', "{}"])
def test_printable_ids_are_taken_as_they_are(client: Client, given: str, headers: dict[str, str]) -> None:
    response = client.request("POST", PREDICT, STEP, headers | {HEADER: given})
    response.expect()
    assert response.headers[HEADER] == given
    assert client.request("POST", PREDICT, b"{", headers | {HEADER: given}).expect(400)["request_id"] == given


@pytest.mark.parametrize("headers", [{}, UNUSUAL], ids=["short", "flask"])
@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "\x7f", "é"])
def test_other_ids_are_replaced(client: Client, given: str, headers: dict[str, str]) -> None:
    response = client.request("POST", PREDICT, b"{", headers | {HEADER: given})
    assert MADE.fullmatch(response.headers[HEADER])
    assert problem(response, 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PATCH", "/v1/models", 405), ("OPTIONS", "/v1/models", 200), ("HEAD", "/metrics", 200)],
)
def test_requests_without_a_handler_have_ids_too(client: Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path, headers={HEADER: "mine"})
    assert response.status == status
    assert response.headers[HEADER] == "mine"
    if method == "OPTIONS":
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
        assert response.body == b""


def test_what_is_no_request_has_an_id_too(service: Service) -> None:
    wire = Wire(service.port)
    wire.send(b"GET / HTTP/9.9\r\nX-Request-ID: mine\r\n\r\n")
    response = wire.response()
    problem(response, 400)
    assert MADE.fullmatch(response.headers[HEADER])
    wire.close()


def test_entries_and_lines_that_fail_have_the_id_of_their_request(service: Service, client: Client) -> None:
    path = client.create("digits-rnn")
    name = path.rpartition("/")[2]
    body = json.dumps({"sessions": {name: [[1] * 8], "none-such": [[1] * 8]}}).encode()
    response = client.request("POST", "/v1/models/digits-rnn/sessions:predict", body, {HEADER: "many"})
    entries = response.expect()["sessions"]
    assert entries["none-such"]["request_id"] == "many"
    assert "request_id" not in entries[name]
    with service.stream(path) as stream:
        assert MADE.fullmatch(stream.step("wrong")["request_id"])


def test_a_replayed_response_has_the_id_of_the_retry(client: Client) -> None:
    path = client.create("digits-rnn")
    for given in ("first", "second"):
        headers = {HEADER: given, "Idempotency-Key": "one"}
        response = client.request("POST", f"{path}:predict", STEP, headers)
        assert response.headers.get_all(HEADER) == [given]
    assert response.headers["Idempotency-Replayed"] == "true"
