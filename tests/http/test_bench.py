"""The benchmark's requests are what they are called, and its ratios are of what ran in the same round."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bench import models
from bench.load import Load, drive
from bench.messages import connections, session_name
from bench.rows import BASELINE, LARGER, MANY, ROWS, Row
from tests.support.client import Client, Response
from tests.support.connections import Wire
from tests.support.redis_server import RedisServer
from tests.support.service import Launch, Service

ROW = {row.name: row for row in ROWS}
CALLS = [row for row in ROWS if row is not BASELINE and not row.lines and row.model != LARGER]


def send(service: Service, row: Row, count: int = 1) -> list[Response]:
    """The responses to a row's first requests."""
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


def create(client: Client, count: int, model: str = "digits-rnn") -> None:
    for number in range(count):
        answer = client.post(f"/v1/models/{model}/sessions", {"session": session_name(number)})
        assert answer.status in (201, 409)


@pytest.mark.parametrize("row", CALLS, ids=lambda row: row.name)
def test_every_row_is_answered(service: Service, client: Client, row: Row) -> None:
    create(client, MANY if row.sessions else 0)
    (answer,) = send(service, row)
    assert answer.status == 200, answer.body
    assert b'"error":' not in answer.body


def test_the_larger_model_has_a_million_parameters(launch: Launch, tmp_path: Path) -> None:
    running = launch(MODEL_REPOSITORY=models.write(tmp_path / "models"))
    with running.client() as client:
        create(client, 1, LARGER)
        (answer,) = send(running, ROW["larger"])
        assert answer.expect()["step"] == 1
        model = client.get(f"/v1/models/{LARGER}").expect()
    assert sum(math.prod(parameter["shape"]) for parameter in model["parameters"]) == 1_003_914


@pytest.mark.parametrize("name", ["stream", "pipelined", "socket", "socket-pipelined"])
def test_lines_are_answered_one_by_one(service: Service, client: Client, name: str) -> None:
    create(client, 1)
    (connection,) = connections(ROW[name], 1)
    responses, wire, count = connection.responses(), Wire(service.port), 0
    before = client.step_of(f"/v1/models/digits-rnn/sessions/{session_name(0)}")
    wire.send(connection.opening)
    wire.send(b"".join(islice(connection.requests, 100)))
    while count < 100:
        count += responses.feed(wire.some())
    wire.send(connection.closing)
    wire.close()
    assert client.step_of(f"/v1/models/digits-rnn/sessions/{session_name(0)}") == before + count == before + 100


@pytest.mark.parametrize("suffix", ["", "-1mb"])
def test_infer_asks_what_predict_asks(service: Service, suffix: str) -> None:
    predictions = send(service, ROW[f"predict{suffix}"])[0].json["predictions"]
    told = send(service, ROW[f"infer-json{suffix}"])[0].json["outputs"][0]
    (answer,) = send(service, ROW[f"infer-binary{suffix}"])
    start = int(answer.headers["Inference-Header-Content-Length"])
    assert told["data"] == [value for one in predictions for value in one["probabilities"]]
    assert json.loads(answer.body[:start])["outputs"][0]["shape"] == told["shape"] == [len(predictions), 10]
    assert len(answer.body) - start == 4 * len(told["data"])


def test_a_process_that_ends_meanwhile_ends_no_measurement(service: Service) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    load = Load(service.port, [ended.pid, *service.pids()], connections(ROW["predict"], 1), 0.0, 0.2)
    assert drive(load).cpu > 0


def test_a_row_with_keys_never_uses_one_twice(service: Service, client: Client) -> None:
    create(client, 4)
    (one, two) = send(service, ROW["keyed"], 2), send(service, ROW["keyed"], 2)
    assert all("Idempotency-Replayed" not in answer.headers for answer in one + two)
    assert [after.json["step"] - before.json["step"] for before, after in zip(one, two, strict=True)] == [1, 1]
    # Nor do several connections, or the same one when it is measured again.
    several = connections(ROW["keyed"], 2)
    heads = [request for connection in several * 2 for request in islice(connection.requests, 1500)]
    keys = [next(line for line in head.split(b"\r\n") if line.startswith(b"Idempotency-Key: ")) for head in heads]
    assert len(set(keys)) == len(keys) == 6000


def test_a_step_without_a_key_pays_nothing_for_keys(launch: Launch, redis_server: RedisServer) -> None:
    """No ratio shows that there is nothing: Redis writes the new state, and looks up nothing but the session."""
    running = launch(REDIS_URL=redis_server.url)
    with running.client() as client:
        create(client, 1)
        plain = [commands(redis_server, lambda: send(running, ROW["session"])) for _ in range(5)]
        keyed = [commands(redis_server, lambda: send(running, ROW["keyed"])) for _ in range(5)]
    # The service has commands of its own now and then, such as to count its sessions.
    assert {name: min(one[name] for one in plain) for name in plain[0]} == {"set": 1, "get": 0, "mget": 1}
    assert min(one["set"] for one in keyed) > 1


def commands(server: RedisServer, work: Callable[[], list[Response]]) -> dict[str, int]:
    """How many commands that read or write whole values were carried out meanwhile."""

    def calls(name: str) -> int:
        found: Any = server.redis.info("commandstats")
        return int(found.get(f"cmdstat_{name}", {"calls": 0})["calls"])

    before = {name: calls(name) for name in ("set", "get", "mget")}
    assert [answer.status for answer in work()] == [200]
    return {name: calls(name) - count for name, count in before.items()}
