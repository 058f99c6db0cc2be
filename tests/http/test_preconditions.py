"""`If-Match`, `If-None-Match` and `Idempotency-Key` hold on each route that changes a session, with one result."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from carryover.api.routes import ROUTES
from tests.support.calls import NAMES, REPLAYED, call, fresh, held, state
from tests.support.client import JSON, NDJSON, Client, Response, strict_json
from tests.support.sockets import spoken

ROW = [0.5, -1.0, 2.0]
OTHER = [0.25, 1.0, -2.0]
SESSIONS = "/v1/models/rnn/sessions"
INFER = "/v2/models/rnn/infer"
STEP = 3
"""Where a session is that exists."""


@dataclass(frozen=True)
class Request:
    """What is sent; the second of the bodies makes another request of it, or `other_path` does."""

    method: str
    path: str
    bodies: tuple[bytes, bytes] = (b"", b"")
    other_path: str = ""
    media_type: str = JSON


@dataclass(frozen=True)
class Way:
    """One way to change a session, and what comes of it where there are no preconditions.

    `existing` and `missing` are the statuses for a session at `STEP` and for none. `route` is its row in the table of
    routes.
    """

    route: str
    build: Callable[[Client, str], Request]
    existing: int
    missing: int
    accumulator: bool = False
    target_is_new: bool = False


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _both(of_row: Callable[[list[float]], Any]) -> tuple[bytes, bytes]:
    return _json(of_row(ROW)), _json(of_row(OTHER))


def _predict(_: Client, name: str) -> Request:
    return Request("POST", f"{SESSIONS}/{name}:predict", _both(lambda row: {"instances": [row]}))


def _stream(_: Client, name: str) -> Request:
    bodies = _both(lambda row: {"instances": [row]})
    return Request("POST", f"{SESSIONS}/{name}:stream", bodies, media_type=NDJSON)


def _message(_: Client, name: str) -> Request:
    bodies = _both(lambda row: {"instances": [row]})
    return Request("GET", f"{SESSIONS}/{name}:stream", bodies, media_type=NDJSON)


def _bulk(_: Client, name: str) -> Request:
    return Request("POST", f"{SESSIONS}:predict", _both(lambda row: {"sessions": {name: [row]}}))


def _create(_: Client, name: str) -> Request:
    return Request("POST", SESSIONS, (_json({"session": name}), _json({"session": name, "ttl": 5})))


def _fork(_: Client, name: str) -> Request:
    target = fresh("fork")
    bodies = _json({"session": target}), _json({"session": target, "ttl": 5})
    return Request("POST", f"{SESSIONS}/{name}:fork", bodies)


def _reset(_: Client, name: str) -> Request:
    return Request("POST", f"{SESSIONS}/{name}:reset", (b"", b"{}"))


def _put(client: Client, name: str) -> Request:
    files = []
    for row in (ROW, OTHER):
        address = client.create("rnn")
        client.step(address, [row])
        files.append(state(client, address))
    return Request("PUT", f"{SESSIONS}/{name}/state", (files[0], files[1]), media_type="application/octet-stream")


def _delete(_: Client, name: str) -> Request:
    return Request("DELETE", f"{SESSIONS}/{name}", other_path=f"/v1/models/rnn/versions/1/sessions/{name}")


def _add(_: Client, name: str) -> Request:
    return Request("POST", f"/v1/accumulators/{name}", (_json({"values": [1]}), _json({"values": [2]})))


def _forget(_: Client, name: str) -> Request:
    # The same accumulator, by its session's path.
    other = f"/v1/models/accumulator/sessions/{name}"
    return Request("DELETE", f"/v1/accumulators/{name}", other_path=other)


def _infer(**parameters: bool) -> Callable[[Client, str], Request]:
    def build(_: Client, name: str) -> Request:
        given = {"sequence_id": name, **parameters}
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1, 3]}
        return Request("POST", INFER, _both(lambda row: {"inputs": [{**tensor, "data": row}], "parameters": given}))

    return build


WAYS = {
    "predict": Way("v1.sessions.predict", _predict, 200, 404),
    "stream": Way("v1.streams.stream", _stream, 200, 404),
    "message": Way("v1.streams.websocket", _message, 200, 404),
    "bulk": Way("v1.sessions.predict_many", _bulk, 200, 404),
    "create": Way("v1.sessions.create", _create, 409, 201),
    "fork": Way("v1.sessions.fork", _fork, 201, 404, target_is_new=True),
    "reset": Way("v1.sessions.reset", _reset, 200, 404),
    "put": Way("v1.sessions.put_state", _put, 200, 200),
    "delete": Way("v1.sessions.delete", _delete, 204, 404),
    "add": Way("v1.accumulators.add", _add, 200, 200, accumulator=True),
    "forget": Way("v1.accumulators.delete", _forget, 204, 404, accumulator=True),
    "infer START": Way("v2.infer.infer", _infer(sequence_start=True), 200, 200),
    "infer": Way("v2.infer.infer", _infer(), 200, 400),
    "infer END": Way("v2.infer.infer", _infer(sequence_end=True), 200, 400),
    "infer START and END": Way("v2.infer.infer", _infer(sequence_start=True, sequence_end=True), 200, 200),
}

RIGHT, WRONG = {"match": f'"{STEP}"'}, {"match": '"99"'}
ANY, LIST, WRONG_LIST = {"match": "*"}, {"match": f'"1", "{STEP}"'}, {"match": '"1", "2"'}
NEW = {"none_match": "*"}
UNCHANGED, FAILS = "as without", "412"

EXISTING = [
    (RIGHT, UNCHANGED),
    (WRONG, FAILS),
    (ANY, UNCHANGED),
    (LIST, UNCHANGED),
    (WRONG_LIST, FAILS),
    ({"match": f"{STEP}, 7"}, UNCHANGED),
    ({"match": f"{STEP:040}"}, UNCHANGED),
    ({"match": "9" * 40}, FAILS),
    (NEW, FAILS),
    (RIGHT | NEW, FAILS),
]
"""Preconditions, and what comes of them where there is a session at `STEP`."""
MISSING = [(RIGHT, FAILS), (ANY, FAILS), (LIST, FAILS), (NEW, UNCHANGED)]
"""The same where there is none. What fails without them fails as it would (RFC 9110, section 13.2.1)."""


def send(client: Client, request: Request, headers: dict[str, str], *, other: bool = False) -> Response:
    """Send a request; the key of a stream's step is in its line."""
    body, path = request.bodies[other], request.path
    if other and request.other_path:
        path = request.other_path
    if request.media_type == NDJSON and "key" in headers:
        body = _json({**json.loads(body), "idempotency_key": headers["key"]})
        headers = {name: value for name, value in headers.items() if name != "key"}
    if request.method == "GET":
        return spoken(client.port, path, body, {NAMES[name]: value for name, value in headers.items()})
    kind = {"kind": request.media_type} if body else {}
    return call(client, request.method, path, body or None, **kind, **headers)


def status(response: Response) -> int:
    """The status of what was asked of one session, which is in the body where several may be asked for."""
    if response.status == 200 and b"\n" in response.body:
        found = strict_json(response.body.splitlines()[0])
    elif response.status == 200 and b'{"sessions":' in response.body:
        (found,) = response.json["sessions"].values()
    else:
        return response.status
    code: int = found.get("status", 200)
    return code


def prepared(client: Client, way: Way) -> str:
    """A session, or an accumulator, at `STEP`."""
    name = fresh()
    for _ in range(STEP):
        if way.accumulator:
            call(client, "POST", f"/v1/accumulators/{name}", {"values": [1]}).expect()
    if not way.accumulator:
        client.create("rnn", name)
        for _ in range(STEP):
            client.step(f"{SESSIONS}/{name}", [ROW])
    return name


def seen(client: Client, way: Way, name: str) -> Any:
    """What there is of a session; None where there is nothing."""
    if way.accumulator:
        response = client.get(f"/v1/accumulators/{name}")
        return response.json if response.status == 200 else None
    response = client.get(f"{SESSIONS}/{name}")
    return held(client, f"{SESSIONS}/{name}") if response.status == 200 else None


def test_every_route_that_changes_a_session_is_tried_here() -> None:
    assert {way.route for way in WAYS.values()} == {route.name for route in ROUTES if route.changes}


@pytest.mark.parametrize(("headers", "result"), EXISTING, ids=str)
@pytest.mark.parametrize("word", WAYS)
def test_preconditions_on_a_session_that_exists(
    client: Client, word: str, headers: dict[str, str], result: str
) -> None:
    way = WAYS[word]
    name = prepared(client, way)
    request = way.build(client, name)
    before = seen(client, way, name)
    if way.target_is_new and headers == NEW:
        result = UNCHANGED  # the session that a fork must not find is the new one
    if way.target_is_new and headers == RIGHT | NEW:
        result = UNCHANGED
    response = send(client, request, headers)
    if result == UNCHANGED:
        assert status(response) == way.existing, response.body
    else:
        assert status(response) == 412, response.body
        assert seen(client, way, name) == before


@pytest.mark.parametrize(("headers", "result"), MISSING, ids=str)
@pytest.mark.parametrize("word", WAYS)
def test_preconditions_on_a_session_that_does_not_exist(
    client: Client, word: str, headers: dict[str, str], result: str
) -> None:
    way, name = WAYS[word], fresh()
    response = send(client, way.build(client, name), headers)
    if result == UNCHANGED or way.missing >= 400:
        assert status(response) == way.missing, response.body
    else:
        assert status(response) == 412, response.body
    if status(response) >= 400:
        assert seen(client, way, name) is None


def test_a_fork_makes_no_session_where_there_is_one(client: Client) -> None:
    name, target = prepared(client, WAYS["fork"]), prepared(client, WAYS["fork"])
    before = held(client, f"{SESSIONS}/{target}")
    path, body = f"{SESSIONS}/{name}:fork", {"session": target}
    assert call(client, "POST", path, body, none_match="*").status == 412
    assert call(client, "POST", path, body).status == 409
    assert held(client, f"{SESSIONS}/{target}") == before


@pytest.mark.parametrize("word", WAYS)
def test_malformed_preconditions_are_said_to_be(client: Client, word: str) -> None:
    way = WAYS[word]
    name = prepared(client, way)
    request, before = way.build(client, name), seen(client, way, name)
    for headers in ({"match": "one"}, {"match": 'W/"3"'}, {"match": ""}, {"match": '"3'}, {"none_match": '"3"'}):
        assert send(client, request, headers).status == 400, headers
    assert seen(client, way, name) == before


@pytest.mark.parametrize("word", WAYS)
def test_a_request_with_a_key_is_carried_out_once(client: Client, word: str) -> None:
    way = WAYS[word]
    name = prepared(client, way) if way.existing < 400 else fresh()
    request, key = way.build(client, name), fresh("key")
    first = send(client, request, {"key": key})
    after = seen(client, way, name)
    again = send(client, request, {"key": key})
    assert (status(again), again.body) == (status(first), first.body)
    assert status(first) == (way.existing if way.existing < 400 else way.missing)
    if request.media_type != NDJSON:  # of which each line is answered by itself
        assert again.headers[REPLAYED] == "true"
        assert first.headers[REPLAYED] is None
        for header in ("ETag", "Location", "Content-Type"):
            assert again.headers[header] == first.headers[header]
    assert seen(client, way, name) == after
    assert status(send(client, request, {"key": key}, other=True)) == 422
    assert seen(client, way, name) == after


@pytest.mark.parametrize("word", [word for word, way in WAYS.items() if way.existing < 400])
def test_a_retry_is_answered_though_its_precondition_does_not_hold_any_more(client: Client, word: str) -> None:
    way = WAYS[word]
    name = prepared(client, way)
    request, key = way.build(client, name), fresh("key")
    first = send(client, request, {"key": key} | RIGHT)
    assert status(first) == way.existing
    again = send(client, request, {"key": key} | RIGHT)
    if request.media_type == NDJSON:
        # A stream starts at the step that is named, and its head is sent before its first line is read.
        assert again.status == 412
    else:
        assert (again.status, again.body) == (first.status, first.body)


@pytest.mark.parametrize("word", WAYS)
def test_what_failed_may_be_sent_again_with_its_key(client: Client, word: str) -> None:
    way = WAYS[word]
    name = prepared(client, way)
    request, key = way.build(client, name), fresh("key")
    assert status(send(client, request, {"key": key} | WRONG)) == 412
    if way.existing < 400:
        assert status(send(client, request, {"key": key} | RIGHT)) == way.existing


def test_two_lines_with_one_key_that_come_together_are_one_step(client: Client) -> None:
    address = client.create("rnn")
    line = _json({"instances": [ROW], "idempotency_key": "k"}) + b"\n"
    other = _json({"instances": [OTHER], "idempotency_key": "k"}) + b"\n"
    response = client.request("POST", f"{address}:stream", line * 3 + other + line, {"Content-Type": NDJSON})
    lines = [strict_json(each) for each in response.body.splitlines()]
    assert [each.get("step", each.get("status")) for each in lines] == [1, 1, 1, 422, 1]
    assert lines[0] == lines[1] == lines[2] == lines[4]
    assert client.step_of(address) == 1


@pytest.mark.parametrize("parameters", [{"sequence_start": True}, {}, {"sequence_end": True}])
def test_a_sequence_on_a_model_without_state_is_rejected(client: Client, parameters: dict[str, bool]) -> None:
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ROW}],
        "parameters": {"sequence_id": 7, **parameters},
    }
    response = client.post("/v2/models/batchnorm/infer", body)
    assert "keeps no state" in response.expect(400)["error"]


@pytest.mark.parametrize("absent", ["id", "parameters", "outputs"])
def test_null_is_as_if_it_were_left_out(client: Client, absent: str) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ROW, "parameters": None}]
    without = client.post("/v2/models/batchnorm/infer", {"inputs": inputs}).expect()
    null: dict[str, Any] = {"inputs": inputs, absent: None}
    assert client.post("/v2/models/batchnorm/infer", null).expect() == without
    parameters = {
        "sequence_id": None, "sequence_start": None, "sequence_end": None, "binary_data_output": None
    }  # fmt: skip
    outputs: list[Any] = [
        {"name": "x", "parameters": {"binary_data": None, "classification": None, "shared_memory_region": None}}
    ]
    body = {"inputs": inputs, "parameters": parameters, "outputs": outputs}
    assert client.post("/v2/models/batchnorm/infer", body).expect() == without
    outputs = [{"name": "x", "parameters": None}]
    assert client.post("/v2/models/batchnorm/infer", {"inputs": inputs, "outputs": outputs}).expect() == without


def test_a_response_without_a_body_has_no_media_type(client: Client) -> None:
    response = client.delete(client.create("rnn"))
    assert response.status == 204
    assert response.headers["Content-Type"] is None
    assert response.headers["Content-Length"] in (None, "0")
