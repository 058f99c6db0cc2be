"""Requests to hot routes are answered alike on the short way and through Flask, whatever they ask and however sent."""

import json
import secrets
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from carryover.api.routes import ROUTES
from tests.support.client import Client
from tests.support.connections import Wire
from tests.support.service import Launch, Service
from tests.support.waiting import PATIENCE, eventually

RNN = "/v1/models/digits-rnn"
ROW = [0, 0, 7, 15, 13, 1, 0, 0]
STEP = {"instances": [ROW]}
ROWS = {"name": "rows", "shape": [1, 1, 8], "datatype": "FP32"}
INFER: dict[str, Any] = {"inputs": [{**ROWS, "data": ROW}]}
START = {"sequence_id": "fast", "sequence_start": True}
MIDDLE = {"sequence_id": "fast"}
UNUSUAL = "Keep-Alive: timeout=5\r\n"
"""A header that changes nothing, but is not ordinary."""


@dataclass(frozen=True)
class Case:
    """A request to one hot route; the session `fast` is at step 1 before it where `session` says so."""

    route: str
    path: str
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    session: bool = True
    repeated: bool = False

    def data(self, more: str = "") -> bytes:
        """Return the request, with `more` headers."""
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        fields = {
            "Host": "a",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "X-Request-ID": "a",
        }
        fields |= dict(self.headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}{more}\r\n".encode() + body


def _predict() -> Iterator[Case]:
    path, scan = "/v1/models/digits-batchnorm:predict", [0.5] * 64
    bodies: tuple[Any, ...] = (
        {"instances": [scan]},
        {"instances": [scan] * 3},
        {"instances": []},
        {"instances": [[1]]},
        {"instances": [scan], "more": 1},
        {"instances": [[*scan[:-1], "a"]]},
        b"",
        b"{",
        b"[]",
    )
    for body in bodies:
        yield Case("v1.models.predict", path, body)
    yield Case("v1.models.predict", path.replace(":", "/versions/1:"), {"instances": [scan]})
    yield Case("v1.models.predict", path.replace("digits", "none"), {"instances": [scan]})
    yield Case("v1.models.predict", path, {"instances": [scan]}, {"Content-Type": "text/plain"})
    yield Case("v1.models.predict", path, {"instances": [scan]}, {"Content-Type": "application/json; charset=utf-8"})


def _step() -> Iterator[Case]:
    route, path = "v1.sessions.predict", f"{RNN}/sessions/fast:predict"
    conditions: tuple[dict[str, str], ...] = (
        {}, {"If-Match": '"1"'}, {"If-Match": '"9"'}, {"If-Match": "*"}, {"If-Match": "a"}, {"If-None-Match": "*"},
        {"Idempotency-Key": "fast-key"}, {"Idempotency-Key": ""}, {"If-Match": '"1"', "Idempotency-Key": "fast-key"},
    )  # fmt: skip
    for headers in conditions:
        yield Case(route, path, STEP, headers)
        yield Case(route, path, STEP, headers, session=False)
        yield Case(route, path, STEP, headers, repeated=True)
    yield Case(route, f"{path}?migrate=true", STEP)
    yield Case(route, f"{path}?migrate=maybe", STEP)
    yield Case(route, f"{RNN}/versions/1/sessions/fast:predict", STEP)
    yield Case(route, f"{RNN}/sessions/..:predict", STEP)
    yield Case(route, f"{RNN}/sessions/{'a' * 129}:predict", STEP)
    yield Case(route, path, {"instances": [[1, 2]]})


def _many() -> Iterator[Case]:
    route, path = "v1.sessions.predict_many", f"{RNN}/sessions:predict"
    for sessions in ({"fast": [ROW]}, {"fast": [ROW], "none": [ROW], "ba d": [ROW], "x": 1}, {}):
        for headers in ({}, {"If-Match": '"1"'}, {"Idempotency-Key": "fast-key"}):
            yield Case(route, path, {"sessions": sessions}, headers)
            yield Case(route, path, {"sessions": sessions}, headers, repeated=True)


def _accumulate() -> Iterator[Case]:
    route, path = "v1.accumulators.add", "/v1/accumulators/fast"
    many: tuple[list[Any], ...] = ([1.5], [[1, 2], 3], [], [[]], ["a"], [1e400])
    for values in many:
        yield Case(route, path, {"values": values}, session=False)
    for headers in ({"If-Match": '"0"'}, {"If-None-Match": "*"}, {"Idempotency-Key": "fast-key"}):
        yield Case(route, path, {"values": [1]}, headers, session=False)
        yield Case(route, path, {"values": [1]}, headers, session=False, repeated=True)


def _infer() -> Iterator[Case]:
    route, path = "v2.infer.infer", "/v2/models/digits-rnn/infer"
    bodies: tuple[dict[str, Any], ...] = (
        {},
        {"id": "a"},
        {"parameters": START},
        {"parameters": MIDDLE},
        {"outputs": [{"name": "none"}]},
    )
    for more in bodies:
        for headers in ({}, {"If-Match": '"1"'}, {"Idempotency-Key": "fast-key"}, {"Accept-Encoding": "gzip"}):
            yield Case(route, path, INFER | more, headers)
            yield Case(route, path, INFER | more, headers, session=False)
            yield Case(route, path, INFER | more, headers, repeated=True)
    binary = json.dumps({"inputs": [{**ROWS, "parameters": {"binary_data_size": 32}}]}).encode()
    length = {"Inference-Header-Content-Length": str(len(binary)), "Content-Type": "application/octet-stream"}
    yield Case(route, path, binary + struct.pack("<8f", *ROW), length)
    yield Case(route, path, binary + struct.pack("<7f", *ROW[:7]), length)
    yield Case(route, path, b"", {"Content-Type": ""})


CASES = [*_predict(), *_step(), *_many(), *_accumulate(), *_infer()]


def test_every_hot_route_has_cases() -> None:
    assert {case.route for case in CASES} == {route.name for route in ROUTES if route.hot}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.route} {case.path[-20:]}")
def test_both_ways_answer_alike(service: Service, client: Client, case: Case) -> None:
    assert _answers(service, client, case, "") == _answers(service, client, case, UNUSUAL)


def _answers(service: Service, client: Client, case: Case, more: str) -> list[tuple[int, dict[str, str], bytes]]:
    """Return status, headers and body of each response, of a request to a session in the same state each time."""
    for path in (f"{RNN}/sessions/fast", f"{RNN}/sessions/none", "/v1/accumulators/fast"):
        client.delete(path)
    if case.session:
        client.post(f"{RNN}/sessions", {"session": "fast"}).expect(201)
        client.post(f"{RNN}/sessions/fast:predict", STEP).expect(200)
    found = []
    wire = Wire(service.port)
    data = case.data(more).replace(b"fast-key", secrets.token_hex(4).encode())  # what it names outlives the session
    for _ in range(2 if case.repeated else 1):
        wire.send(data)
        response = wire.response()
        headers = {name: value for name, value in response.headers.items() if name != "Date"}
        found.append((response.status, headers, response.body))
    wire.close()
    return found


def _step_of(wire: Wire) -> int:
    response = wire.response()
    assert response.status == 200, response.body
    step: int = response.json["step"]
    return step


@pytest.fixture
def step(client: Client) -> bytes:
    """Return a request that steps a new session."""
    client.delete(f"{RNN}/sessions/fast")
    client.post(f"{RNN}/sessions", {"session": "fast"}).expect(201)
    return Case("", f"{RNN}/sessions/fast:predict", STEP).data()


def test_requests_sent_at_once_are_answered_in_their_order(service: Service, step: bytes) -> None:
    wire = Wire(service.port)
    unusual = Case("", f"{RNN}/sessions/fast:predict", STEP).data(UNUSUAL)
    show = f"GET {RNN}/sessions/fast HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    wire.send(step + unusual + step + show + unusual + unusual + step)
    assert [_step_of(wire) for _ in range(7)] == [1, 2, 3, 3, 4, 5, 6]
    assert wire.silent()
    wire.close()


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_may_arrive_in_pieces(service: Service, step: bytes, size: int) -> None:
    wire = Wire(service.port)
    for start in range(0, len(step), size):
        wire.send(step[start : start + size])
    assert _step_of(wire) == 1
    wire.send(step)
    assert _step_of(wire) == 2
    wire.close()


def test_a_body_that_comes_late_is_waited_for(service: Service, step: bytes) -> None:
    wire = Wire(service.port)
    wire.send(step[:-10])
    assert wire.silent(1.5)  # longer than the short way waits
    wire.send(step[-10:] + step)
    assert [_step_of(wire), _step_of(wire)] == [1, 2]
    wire.close()


def test_a_request_that_is_cut_short_changes_nothing(service: Service, client: Client, step: bytes) -> None:
    wire = Wire(service.port)
    wire.send(step + step[:-10])
    assert _step_of(wire) == 1
    wire.shut()
    assert b" 400 " in wire.rest()
    wire.close()
    assert client.get(f"{RNN}/sessions/fast").expect(200)["step"] == 1


def test_a_worker_that_has_handled_all_it_may_says_so_on_both_ways(launch: Launch) -> None:
    unusual = Case("", "/v1/accumulators/last", {"values": [1]}).data(UNUSUAL)
    ordinary = Case("", "/v1/accumulators/last", {"values": [1]}).data()
    service = launch(WORKERS=1, GUNICORN_CMD_ARGS="--max-requests 50")
    for request in (ordinary, unusual):
        (worker,) = eventually("a worker", service.workers)
        wire = Wire(service.port)
        said: list[str | None] = []
        while not said or said[-1] == "keep-alive":
            wire.send(request)
            said.append(wire.response().headers["Connection"])
        assert said[-1] == "close"
        assert len(said) > 20
        assert wire.rest() == b""
        wire.close()
        worker.wait(PATIENCE)
