"""Rates of API keys: on every route, on both ways to it, over all workers; what is rejected has changed nothing."""

import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest

import carryover.client
from carryover import keys
from carryover.api.route import Route, Scope
from carryover.api.routes import ROUTES
from tests.support.client import Client, Response, problem
from tests.support.service import Service
from tests.support.waiting import together

UNUSUAL = {"Keep-Alive": "timeout=5"}
"""Headers with which a request is not ordinary: it goes through Flask."""
ROW = [0, 0, 7, 15, 13, 1, 0, 0]
STEP = json.dumps({"instances": [ROW]}).encode()
SESSIONS = "/v1/models/digits-rnn/sessions"
RATED = [route for route in ROUTES if route.scope is not Scope.OPEN]
BURST = 3


def entry(name: str, rate: str, burst: int) -> str:
    return (
        f'[keys."{name}"]\nsha256 = "{keys.digest(name)}"\nrights = ["predict", "sessions", "admin"]\n'
        f'rate = "{rate}"\nburst = {burst}\n'
    )


def key_of(route: Route, way: str) -> str:
    """The name of a key that only the test of this route uses."""
    return f"{way}-{RATED.index(route)}"


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("rated")
    entries = [entry(key_of(route, way), f"{BURST}/day", BURST) for route in RATED for way in ("short", "flask")]
    entries += [entry(name, "5/day", 5) for name in ("counted", "streams", "bulk", "bad")]
    entries += [
        entry("quick", "50/second", 1),
        entry("patient", "10/second", 1),
        entry("looks", "9/second", 9),
        entry("stateless", "1/day", 1),
        f'[keys.free]\nsha256 = "{keys.digest("free")}"\nrights = ["sessions"]',
    ]
    (folder / "keys.toml").write_text("\n".join(entries))
    running = Service(folder, API_KEYS=folder / "keys.toml", API_KEYS_EXEMPT="none")
    try:
        running.launch()
        running.listen()
        yield running
    finally:
        running.end()


@pytest.fixture
def client(rated: Service) -> Iterator[Client]:
    with rated.client() as connection:
        yield connection


def call(client: Client, key: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
    kind = {} if body is None else {"Content-Type": "application/json"}
    return client.request(method, path, body, {"Authorization": f"Bearer {key}"} | kind | headers)


@pytest.mark.parametrize("way", ["short", "flask"])
@pytest.mark.parametrize("route", RATED, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_takes_one_from_the_rate(client: Client, route: Route, way: str) -> None:
    key, headers = key_of(route, way), UNUSUAL if way == "flask" else {}
    named = {"model": "digits-rnn", "session": "none-such", "name": "none-such"}
    path = re.sub(r"\{(\w+)\}", lambda found: named[found[1]], route.template)
    for left in range(BURST - 1, -1, -1):
        response = call(client, key, route.method, path, None if route.method in ("GET", "DELETE") else b"{", **headers)
        assert response.status not in (401, 403, 429, 500)
        assert response.headers["RateLimit-Policy"] == f'"{key}";q={BURST};w=86400'
        assert response.headers["RateLimit"].startswith(f'"{key}";r={left};t=')
    rejected = call(client, key, route.method, path, None if route.method in ("GET", "DELETE") else b"{", **headers)
    assert "used up its rate" in problem(rejected, 429)
    assert 28000 < int(rejected.headers["Retry-After"]) <= 28800
    assert rejected.headers["RateLimit"].startswith(f'"{key}";r=0;t=')


def test_what_is_rejected_has_changed_nothing(rated: Service, client: Client) -> None:
    call(client, "counted", "POST", SESSIONS, b'{"session": "counted"}').expect(201)

    def send(worker: Client) -> Counter[int]:
        return Counter(call(worker, "counted", "POST", f"{SESSIONS}/counted:predict", STEP).status for _ in range(4))

    with rated.clients(4) as clients:
        statuses = sum(together(send, clients), Counter())
    assert statuses == {200: 4, 429: 12}
    found = call(client, "looks", "GET", f"{SESSIONS}/counted?api_key=counted").expect()
    assert found["step"] == 4


def test_lines_of_a_stream_are_counted(client: Client) -> None:
    call(client, "streams", "POST", SESSIONS, b'{"session": "streamed"}').expect(201)
    lines = b"".join(STEP + b"\n" for _ in range(6))
    kind = {"Content-Type": "application/x-ndjson"}
    response = client.request("POST", f"{SESSIONS}/streamed:stream", lines, {"Authorization": "Bearer streams"} | kind)
    assert response.headers["RateLimit-Policy"] == '"streams";q=5;w=86400'
    outcomes = [json.loads(line) for line in response.body.splitlines()]
    assert [outcome.get("status", outcome.get("step")) for outcome in outcomes] == [1, 2, 3, 4, 429, 429]


def test_each_session_of_a_bulk_request_is_counted(client: Client) -> None:
    for name in ("a", "b"):
        call(client, "bulk", "POST", SESSIONS, json.dumps({"session": name}).encode()).expect(201)
    body = json.dumps({"sessions": {"a": [ROW], "b": [ROW]}}).encode()
    first = call(client, "bulk", "POST", f"{SESSIONS}:predict", body).expect()["sessions"]
    assert [first[name]["step"] for name in ("a", "b")] == [1, 1]
    second = call(client, "bulk", "POST", f"{SESSIONS}:predict", body).expect()["sessions"]
    assert (second["a"]["step"], second["b"]["status"]) == (2, 429)
    problem(call(client, "bulk", "POST", f"{SESSIONS}:predict", body), 429)


def test_a_rejected_request_frees_its_idempotency_key(client: Client) -> None:
    created = call(client, "quick", "POST", SESSIONS, b'{"session": "quick"}')
    assert created.status == 201
    done = 0
    for number in range(200):
        response = call(client, "quick", "POST", f"{SESSIONS}/quick:predict", STEP, **{"Idempotency-Key": f"k{number}"})
        if response.status == 429:
            again = call(
                client, "quick", "POST", f"{SESSIONS}/quick:predict", STEP, **{"Idempotency-Key": f"k{number}"}
            )
            assert again.status in (200, 429)
            assert "Idempotency-Replayed" not in again.headers
            response = again
        done += response.status == 200
        if done and number > 20:
            break
    assert done


def test_bad_requests_are_counted(client: Client) -> None:
    statuses = [call(client, "bad", "POST", f"{SESSIONS}/x:predict", b"[").status for _ in range(6)]
    assert statuses == [400] * 5 + [429]


def test_a_key_without_a_rate_has_none(client: Client) -> None:
    response = call(client, "free", "POST", SESSIONS)
    response.expect(201)
    assert "RateLimit-Policy" not in response.headers


def test_predictions_continue_without_redis(rated: Service, client: Client) -> None:
    call(client, "stateless", "POST", "/v1/models/digits-rnn:predict", STEP).expect()
    problem(call(client, "stateless", "POST", "/v1/models/digits-rnn:predict", STEP), 429)
    embedded = rated.valkey()
    assert embedded is not None
    embedded.suspend()
    try:
        call(client, "stateless", "POST", "/v1/models/digits-rnn:predict", STEP).expect()
    finally:
        embedded.resume()


def test_the_client_waits_and_tries_again(rated: Service) -> None:
    url, headers = f"http://127.0.0.1:{rated.port}", {"X-API-Key": "patient"}
    with carryover.client.Client(url, headers=headers) as client:
        session = client.create("digits-rnn")
        assert [session.step([ROW]).step for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        with session.stream() as stream:
            assert [stream.step([ROW]).step for _ in range(6)] == [7, 8, 9, 10, 11, 12]
