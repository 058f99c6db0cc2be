"""The benchmark's own promises: its requests are what they are called, and its ratios are of what ran side by side."""

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from bench.load import Sample
from bench.messages import connections, session_name
from bench.report import document
from bench.results import Cell, cpu, rate
from bench.rows import FLOOR, MANY, ROWS, Row
from bench.sessions import Memory
from bench.table import beside_lines, table
from bench.targets import targets
from tests.support.client import Client, Response
from tests.support.redis_server import RedisServer
from tests.support.service import Launch, Service
from tests.support.wire import Wire

ROW = {row.name: row for row in ROWS}
CALLS = [row for row in ROWS if row is not FLOOR and not row.lines]
MIB = 2**20


def send(service: Service, row: Row, count: int = 1) -> list[Response]:
    """The answers to a row's first requests."""
    (connection,) = connections(row, 1)
    wire = Wire(service.port)
    try:
        answers = []
        for request in islice(connection.requests, count):
            wire.send(request)
            answers.append(wire.response())
        return answers
    finally:
        wire.close()


def begin(client: Client, count: int) -> None:
    for number in range(count):
        answer = client.post("/v1/models/digits-rnn/sessions", {"session": session_name(number)})
        assert answer.status in (201, 409)


@pytest.mark.parametrize("row", CALLS, ids=lambda row: row.name)
def test_every_row_is_answered(service: Service, client: Client, row: Row) -> None:
    begin(client, MANY if row.sessions else 0)
    (answer,) = send(service, row)
    assert answer.status == 200, answer.body
    assert b'"error":' not in answer.body


@pytest.mark.parametrize("name", [row.name for row in ROWS if "1mb" in row.name])
def test_a_large_row_is_about_a_megabyte(name: str) -> None:
    (connection,) = connections(ROW[name], 1)
    request = next(iter(connection.requests))
    assert 0.8 * MIB < len(request) < 1.2 * MIB


@pytest.mark.parametrize("suffix", ["", "-1mb"])
def test_infer_asks_what_predict_asks(service: Service, suffix: str) -> None:
    predictions = send(service, ROW[f"predict{suffix}"])[0].json["predictions"]
    told = send(service, ROW[f"infer-json{suffix}"])[0].json["outputs"][0]
    (answer,) = send(service, ROW[f"infer-binary{suffix}"])
    start = int(answer.headers["Inference-Header-Content-Length"])
    assert told["data"] == [value for one in predictions for value in one["probabilities"]]
    assert json.loads(answer.body[:start])["outputs"][0]["shape"] == told["shape"] == [len(predictions), 10]
    assert len(answer.body) - start == 4 * len(told["data"])


def test_a_row_with_keys_never_uses_one_twice(service: Service, client: Client) -> None:
    begin(client, 4)
    (one, two) = send(service, ROW["keyed"], 2), send(service, ROW["keyed"], 2)
    assert all("Idempotency-Replayed" not in answer.headers for answer in one + two)
    assert [after.json["step"] - before.json["step"] for before, after in zip(one, two, strict=True)] == [1, 1]
    # Nor do several connections, or the same one when it is measured again.
    several = connections(ROW["keyed"], 2)
    heads = [request for connection in several * 2 for request in islice(connection.requests, 1500)]
    keys = [next(line for line in head.split(b"\r\n") if line.startswith(b"Idempotency-Key: ")) for head in heads]
    assert len(set(keys)) == len(keys) == 6000


def sample(rate: float, cpu: float) -> Sample:
    return Sample(requests=100, rate=rate, p50=1 / rate, p99=2 / rate, cpu=cpu, own_cpu=1e-5, others=0.0)


def test_ratios_are_of_the_same_round() -> None:
    """The machine was busy in the second round: that slowed both rows, and is no cost of the one."""
    plain = Cell(ROW["session"], 32, [sample(1000, 1e-3), sample(100, 9e-3), sample(1000, 1e-3)])
    keyed = Cell(ROW["keyed"], 32, [sample(900, 1.1e-3), sample(90, 9.9e-3), sample(900, 1.1e-3)], beside=plain)
    plain.floors = keyed.floors = plain.samples
    assert keyed.ratio_to(plain, rate) == pytest.approx(0.9)
    assert keyed.ratio_to(plain, cpu) == pytest.approx(1.1)
    cells, used = [plain, keyed], Memory(400, 256, 30)
    found = [target for target in targets(cells, used, None) if "a key" in target.what]
    assert [round(target.value, 3) for target in found] == [1.1, 1.111]
    assert all(target.reached for target in found)
    assert "requests/s 0.90  p50 1.11  CPU 1.10" in beside_lines(cells)
    assert "session :predict, with a key" in table(cells)
    written = json.loads(json.dumps(document(cells, used, None, found)))
    assert written["rows"][0]["beside"] is None
    assert written["rows"][1]["beside"]["name"] == "session"


def test_a_key_that_costs_too_much_is_said() -> None:
    plain = Cell(ROW["session"], 1, [sample(1000, 1e-3)])
    keyed = Cell(ROW["keyed"], 1, [sample(800, 1.2e-3)], beside=plain)
    plain.floors = keyed.floors = plain.samples
    missed = [target for target in targets([plain, keyed], Memory(400, 256, 30), None) if not target.reached]
    assert [target.what for target in missed if "a key" in target.what] == [
        "CPU of session :predict, with a key over that of one without at 1 connection",
        "requests/s of session :predict over those with a key at 1 connection",
    ]


def test_a_step_without_a_key_pays_nothing_for_keys(launch: Launch, redis_server: RedisServer) -> None:
    """No ratio shows that there is nothing: Redis writes the new state, and looks up nothing but the session."""
    running = launch(REDIS_URL=redis_server.url)
    with running.client() as client:
        begin(client, 1)
        plain = commands(redis_server, lambda: send(running, ROW["session"]))
        keyed = commands(redis_server, lambda: send(running, ROW["keyed"]))
        assert commands(redis_server, lambda: send(running, ROW["session"])) == plain
    assert plain == {"set": 1, "get": 0, "mget": 1}
    assert keyed["set"] > 1


def commands(server: RedisServer, work: Callable[[], list[Response]]) -> dict[str, int]:
    """How many commands that read or write whole values were carried out meanwhile."""

    def calls(name: str) -> int:
        found: Any = server.redis.info("commandstats")
        return int(found.get(f"cmdstat_{name}", {"calls": 0})["calls"])

    before = {name: calls(name) for name in ("set", "get", "mget")}
    assert [answer.status for answer in work()] == [200]
    return {name: calls(name) - count for name, count in before.items()}
