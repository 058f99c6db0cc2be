"""API keys: what a route requires, on both ways to it, and whose sessions a caller sees."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from carryover import keys
from carryover.api.route import Route, Scope
from carryover.api.routes import ROUTES
from tests.support.client import Client, Response, problem
from tests.support.service import Launch, Service
from tests.support.sockets import UPGRADE, Events, key_protocols, speak, talking
from tests.support.waiting import eventually

UNUSUAL = {"Keep-Alive": "timeout=5"}
"""Headers with which a request is not ordinary: it goes through Flask."""
ROW = [0, 0, 7, 15, 13, 1, 0, 0]
NDJSON = "application/x-ndjson"
SECRETS: dict[str, str] = {}


def entry(name: str, *lines: str, rights: str = '["predict", "sessions", "admin"]') -> str:
    SECRETS[name] = f"secret-of-{name}"
    return "\n".join((f"[keys.{name}]", f'sha256 = "{keys.digest(SECRETS[name])}"', f"rights = {rights}", *lines, ""))


FILE = "\n".join(
    (
        entry("alice"),
        entry("bob"),
        entry("old", "expires = 2020-01-01T00:00:00Z"),
        entry("narrow", 'models = ["digits-batchnorm"]'),
        entry("no-rights", rights="[]"),
        entry("predicts", rights='["predict"]'),
        entry("sessions", rights='["sessions"]'),
        entry("only-admin", rights='["admin"]'),
    )
)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "keys.toml").write_text(FILE)
    running = Service(
        folder, API_KEYS=folder / "keys.toml", API_KEYS_EXEMPT="none", REQUEST_LOG="all", LOG_FORMAT="json"
    )
    try:
        running.launch()
        running.listen()
        yield running
    finally:
        running.end()


@pytest.fixture
def client(keyed: Service) -> Iterator[Client]:
    with keyed.client() as connection:
        yield connection


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name]}"}


def call(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Response:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    kind = {} if data is None else {"Content-Type": "application/json"}
    return client.request(method, path, data, kind | headers)


def ask(client: Client, route: Route, headers: dict[str, str], name: str = "none-such") -> Response:
    """A request to a route, about a model that keeps state."""
    named = {"model": "digits-rnn", "session": name, "name": name}
    path = re.sub(r"\{(\w+)\}", lambda found: named[found[1]], route.template)
    return client.request(route.method, path, None if route.method == "GET" else b"{", headers)


CLOSED = [route for route in ROUTES if route.scope is not Scope.OPEN]
every_closed_route = pytest.mark.parametrize("route", CLOSED, ids=lambda route: f"{route.method} {route.path}")
both_ways = pytest.mark.parametrize("way", [{}, UNUSUAL], ids=["short", "flask"])


@both_ways
@every_closed_route
def test_a_route_requires_a_key(client: Client, route: Route, way: dict[str, str]) -> None:
    without = ask(client, route, way)
    assert "requires an API key" in problem(without, 401)
    assert without.headers["WWW-Authenticate"] == 'Bearer realm="carryover"'
    for given in (
        {"Authorization": "Bearer wrong"}, {"Authorization": "bearer"}, {"X-API-Key": "wrong"}, {"X-API-Key": ""},
        bearer("old"), {"X-API-Key": SECRETS["old"]}, {"Authorization": "Bearer wrong", "X-API-Key": SECRETS["alice"]},
        {"Authorization": f"Basic {SECRETS['alice']}"},
    ):  # fmt: skip
        response = ask(client, route, way | given)
        assert "API key" in problem(response, 401)
        assert response.headers["WWW-Authenticate"].startswith('Bearer realm="carryover"')
    assert "expired" in problem(ask(client, route, way | bearer("old")), 401)


@both_ways
@every_closed_route
def test_a_route_requires_its_right_and_its_model(client: Client, route: Route, way: dict[str, str]) -> None:
    lacking = {"predict": ["no-rights", "sessions"], "sessions": ["no-rights", "predicts"]}
    for name in lacking.get(route.scope, ["predicts", "sessions"] if route.scope is Scope.ADMIN else []):
        assert f"lacks the right {str(route.scope)!r}" in problem(ask(client, route, way | bearer(name)), 403)
    if "{model}" in route.path or route.model:
        assert "is not for model" in problem(ask(client, route, way | bearer("narrow")), 403)
    for headers in (bearer("alice"), {"X-API-Key": SECRETS["alice"]}, {"authorization": f"BEARER {SECRETS['alice']}"}):
        if route.scope is not Scope.ADMIN:  # those would reload the workers
            assert ask(client, route, way | headers).status not in (401, 403, 500)


def test_open_routes_require_none(client: Client) -> None:
    open_to_all = [route.path for route in ROUTES if route.scope is Scope.OPEN]
    assert open_to_all == ["/openapi.json", "/", "/playground/{asset}", "/docs", "/docs/{file}"]
    document = client.get("/openapi.json").expect()
    schemes: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
    assert document["paths"]["/v1/models"]["get"]["security"] == schemes
    assert document["paths"]["/v2/health/live"]["get"]["security"] == [{}, *schemes]
    assert document["paths"]["/openapi.json"]["get"]["security"] == []
    assert {"401", "403"} <= set(document["paths"]["/v1/models"]["get"]["responses"])


def test_a_sequence_requires_the_right_to_sessions(client: Client) -> None:
    tensor = {"name": "rows", "shape": [1, 1, 8], "datatype": "FP32", "data": ROW}
    body = {"inputs": [tensor], "parameters": {"sequence_id": "of-alice", "sequence_start": True}}
    path = "/v2/models/digits-rnn/infer"
    assert "'sessions'" in problem(call(client, "POST", path, body, **bearer("predicts")), 403)
    call(client, "POST", path, {"inputs": [tensor]}, **bearer("predicts")).expect()
    call(client, "POST", path, body, **bearer("alice")).expect()
    body["parameters"] = {"sequence_id": "of-alice"}
    call(client, "POST", path, body, **bearer("alice")).expect()
    assert "START" in problem(call(client, "POST", path, body, **bearer("bob")), 400)


SESSION_ROUTES = [route for route in ROUTES if re.search(r"\{(session|name)\}", route.path)]
STEP = json.dumps({"instances": [ROW]}).encode()
BODIES = {
    "v1.sessions.predict": STEP,
    "v1.streams.stream": STEP + b"\n",
    "v1.sessions.put_state": b"",
    "v1.accumulators.add": b'{"values": [5]}',
}
"""Bodies of requests for one session; others need none."""


@both_ways
@pytest.mark.parametrize("route", SESSION_ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_sessions_of_one_key_do_not_exist_for_another(client: Client, route: Route, way: dict[str, str]) -> None:
    name = f"{route.name}-{len(way)}"
    accumulator = route.model is not None
    path = f"/v1/accumulators/{name}" if accumulator else f"/v1/models/digits-rnn/sessions/{name}"
    if accumulator:
        call(client, "POST", path, {"values": [1]}, **bearer("alice")).expect()
    else:
        call(client, "POST", "/v1/models/digits-rnn/sessions", {"session": name}, **bearer("alice")).expect(201)
        call(client, "POST", f"{path}:predict", {"instances": [ROW]}, **bearer("alice")).expect()
    before = call(client, "GET", path, **bearer("alice")).expect()
    body = BODIES.get(route.name, b"{}" if route.method == "POST" else None)
    if route.name == "v1.sessions.put_state":
        body = call(client, "GET", f"{path}/state", **bearer("alice")).body
    kind = {"v1.streams.stream": NDJSON, "v1.sessions.put_state": "application/octet-stream"}
    headers = {"Content-Type": kind.get(route.name, "application/json")} if body is not None else {}
    headers |= UPGRADE if route.name == "v1.streams.websocket" else {}
    target = path + route.template.partition("{name}" if accumulator else "{session}")[2]
    response = client.request(route.method, target, body, headers | way | bearer("bob"))
    if route.name in ("v1.sessions.put_state", "v1.accumulators.add"):  # those create what does not exist
        response.expect()
        call(client, "DELETE", path, **bearer("bob")).expect(204)
    else:
        problem(response, 404)
    after = call(client, "GET", path, **bearer("alice")).expect()
    assert (after["step"], after.get("sum")) == (before["step"], before.get("sum")) == (1, 1.0 if accumulator else None)


def test_a_page_says_its_key_as_a_subprotocol_of_its_websocket(keyed: Service, client: Client) -> None:
    path = "/v1/models/digits-rnn/sessions/of-a-page"
    with talking(keyed.port, path, "?create=true", SECRETS["alice"]) as socket:
        assert socket.subprotocol == "carryover"
        assert speak(socket, [ROW])["step"] == 1
    assert call(client, "GET", path, **bearer("alice")).expect()["step"] == 1
    problem(call(client, "GET", path, **bearer("bob")), 404)
    for name, status in (("bob", 404), ("old", 401), ("predicts", 403), ("narrow", 403), ("wrong", 401)):
        with pytest.raises(InvalidStatus) as raised, talking(keyed.port, path, key=SECRETS.get(name, name)):
            pass
        assert raised.value.response.status_code == status
    for protocol in (
        "carryover",
        "carryover, carryover.bearer.",
        "carryover, carryover.bearer.é",
        "carryover.bearer.%",
    ):
        headers = UPGRADE | {"Sec-WebSocket-Protocol": protocol}
        response = client.request("GET", f"{path}:stream", headers=headers)
        assert response.status in (400, 401)
    assert SECRETS["alice"] not in keyed.log()
    assert key_protocols(SECRETS["alice"])[1] not in keyed.log()


def test_events_are_of_the_sessions_of_the_key(keyed: Service, client: Client) -> None:
    path = "/v1/models/digits-rnn/sessions/followed"
    for name in ("alice", "bob"):
        call(client, "POST", path.rpartition("/")[0], {"session": "followed"}, **bearer(name)).expect(201)
    with Events(keyed.port, path, **bearer("alice")) as events:
        assert events.next() is not None
        call(client, "POST", f"{path}:predict", {"instances": [ROW]}, **bearer("bob")).expect()
        call(client, "POST", f"{path}:predict", {"instances": [ROW, ROW]}, **bearer("alice")).expect()
        call(client, "DELETE", path, **bearer("bob")).expect(204)
        call(client, "POST", f"{path}:predict", {"instances": [ROW]}, **bearer("alice")).expect()
        assert events.steps(2) == [1, 2]


def test_names_and_idempotency_keys_of_one_key_are_free_for_another(client: Client) -> None:
    path = "/v1/models/digits-rnn/sessions"
    keyed = {"Idempotency-Key": "the-same"}
    for name in ("alice", "bob"):
        headers = bearer(name) | keyed
        created = call(client, "POST", path, {"session": "shared"}, **headers)
        created.expect(201)
        assert "Idempotency-Replayed" not in created.headers
        step = call(
            client, "POST", f"{path}/shared:predict", {"instances": [ROW]}, **headers | {"Idempotency-Key": "x"}
        )
        assert step.expect()["step"] == 1
        assert "Idempotency-Replayed" not in step.headers
    body = {"sessions": {"shared": [ROW], "none-such": [ROW]}}
    outcomes = call(client, "POST", f"{path}:predict", body, **bearer("bob")).expect()["sessions"]
    assert (outcomes["shared"]["step"], outcomes["none-such"]["status"]) == (2, 404)


def test_lists_are_of_the_sessions_of_the_key(client: Client) -> None:
    lists = {
        "/v1/models/digits-rnn/sessions": ("sessions", "session"),
        "/v1/accumulators": ("accumulators", "accumulator"),
    }
    for name in ("alice", "bob"):
        for path, (members, member) in lists.items():
            if member == "session":
                call(client, "POST", path, {"session": f"list-{name}"}, **bearer(name)).expect(201)
            else:
                call(client, "POST", f"{path}/list-{name}", {"values": [1]}, **bearer(name)).expect()
            found = call(client, "GET", f"{path}?prefix=list-", **bearer(name)).expect()[members]
            assert [entry[member] for entry in found] == [f"list-{name}"]


def test_an_administrator_sees_and_manages_the_sessions_of_other_keys(client: Client) -> None:
    path = "/v1/models/digits-rnn/sessions"
    call(client, "POST", path, {"session": "managed"}, **bearer("alice")).expect(201)
    call(client, "POST", f"{path}/managed:predict", {"instances": [ROW]}, **bearer("alice")).expect()
    of_alice = "api_key=alice"
    admin, sessions = bearer("only-admin"), bearer("bob")
    listed = call(client, "GET", f"{path}?prefix=managed&{of_alice}", **admin).expect()["sessions"]
    assert [(one["session"], one["step"]) for one in listed] == [("managed", 1)]
    assert call(client, "GET", f"{path}:count?prefix=managed&{of_alice}", **admin).expect()["count"] == 1
    assert call(client, "GET", f"{path}:count?prefix=managed", **admin).expect()["count"] == 0
    assert call(client, "GET", f"{path}/managed?{of_alice}", **sessions).expect()["step"] == 1
    problem(call(client, "GET", f"{path}/managed", **sessions), 404)
    assert call(client, "DELETE", f"{path}?prefix=managed", **admin).expect() == {"deleted": 0}
    assert call(client, "DELETE", f"{path}?prefix=managed&{of_alice}", **admin).expect() == {"deleted": 1}
    problem(call(client, "GET", f"{path}/managed", **bearer("alice")), 410)


@both_ways
def test_others_do_not(client: Client, way: dict[str, str]) -> None:
    path = "/v1/models/digits-rnn/sessions"
    call(client, "POST", path, {"session": f"private-{len(way)}"}, **bearer("alice")).expect(201)
    target = f"{path}/private-{len(way)}"
    for method, suffix in (("GET", ""), ("POST", ":predict"), ("DELETE", "")):
        body = {"instances": [ROW]} if suffix else None
        response = call(client, method, f"{target}{suffix}?api_key=alice", body, **way, **bearer("sessions"))
        assert "lacks the right 'admin'" in problem(response, 403)
    problem(call(client, "GET", f"{path}?api_key=a/b", **bearer("bob")), 400)
    assert call(client, "GET", target, **bearer("alice")).expect()["step"] == 0


def test_the_log_names_the_caller_and_holds_no_key(keyed: Service, client: Client) -> None:
    for way in ({}, UNUSUAL):
        request = f"named-{len(way)}"
        headers = way | bearer("alice") | {"X-Request-ID": request}
        client.request("POST", "/v1/models/digits-rnn:predict", STEP, headers).expect()
        client.request("POST", "/v1/models/digits-rnn:predict", STEP, {"X-API-Key": "made-up-key"}).expect(401)
        eventually("its line", lambda request=request: request in keyed.err())  # type: ignore[misc]
        (line,) = [line for line in keyed.err().splitlines() if request in line]
        assert json.loads(line)["key"] == "alice"
    for secret in (*SECRETS.values(), "made-up-key"):
        assert secret not in keyed.log()


def test_health_is_exempt_by_default_and_metrics_by_request(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(FILE)
    for exempt, expected in (({}, 401), ({"API_KEYS_EXEMPT": "health,metrics"}, 200)):
        service = launch(API_KEYS=tmp_path / "keys.toml", WORKERS=1, **exempt)
        with service.client() as client:
            for path in ("/v2/health/live", "/v2/health/ready", "/"):
                client.get(path).expect()
            assert client.get("/metrics").status == expected
            assert client.request("GET", "/metrics", headers=bearer("no-rights")).status == 200
            problem(client.get("/v1/models"), 401)
        service.end()


def test_the_file_is_read_again_on_sighup(launch: Launch, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("first"))
    service = launch(API_KEYS=file, WORKERS=1)

    def status(name: str) -> int:
        with service.client() as client:
            return client.request("GET", "/v1/models", headers=bearer(name)).status

    assert status("first") == 200
    file.write_text("nonsense")
    service.process.send_signal(signal.SIGHUP)
    eventually("that it is rejected", lambda: "stay valid" in service.err())
    eventually("the models", lambda: "was read again" in service.err())
    assert status("first") == 200
    file.write_text(entry("second"))
    service.process.send_signal(signal.SIGHUP)
    eventually("the new key", lambda: status("second") == 200)
    eventually("the end of the old one", lambda: status("first") == 401)


ADMIN = [route for route in ROUTES if route.scope is Scope.ADMIN]


@pytest.mark.parametrize("route", ADMIN, ids=lambda route: f"{route.method} {route.path}")
def test_without_keys_administration_is_for_clients_on_this_machine(service: Service, route: Route) -> None:
    with service.client() as client:
        for header in ("X-Forwarded-For", "Forwarded"):
            assert "same machine" in problem(ask(client, route, {header: "127.0.0.1"}), 403)
        assert ask(client, route, {}, "none-such").status not in (401, 403)


def test_a_service_without_keys_that_others_can_reach_says_so(service: Service, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(FILE)
    warning = "without API keys"
    everywhere: dict[str, str | int | Path] = {"BIND": "0.0.0.0:0"}
    assert warning not in service.err()
    for settings, warned in ((everywhere, True), (everywhere | {"API_KEYS": tmp_path / "keys.toml"}, False)):
        own = Service(tmp_path / f"bound-{len(settings)}", WORKERS=1, **settings)
        try:
            own.launch()
            eventually("the banner", lambda own=own: "listens at" in own.out())  # type: ignore[misc]
            assert own.err().count(warning) == warned
        finally:
            own.end()
