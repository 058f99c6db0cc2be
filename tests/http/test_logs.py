"""The log: a line for each request where that is asked for, in one format, with nothing that is private or injected."""

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from carryover.telemetry.request_log import Entry, RequestLog
from tests.support.calls import fresh
from tests.support.client import Client
from tests.support.connections import Stream, Wire
from tests.support.service import Launch, Service
from tests.support.sockets import Events, speak, talking
from tests.support.waiting import PATIENCE, eventually

RNN = "/v1/models/digits-rnn"
ROW = [0, 0, 7, 15, 13, 1, 0, 0]
STEP = json.dumps({"instances": [ROW]}).encode()
UNUSUAL = {"Keep-Alive": "timeout=5"}
"""Headers with which a request is not ordinary: it goes through Flask."""


def lines(service: Service) -> list[dict[str, Any]]:
    """What a service that logs JSON has logged so far: every line is an object."""
    return [json.loads(line) for line in service.err().splitlines() if line.startswith("{")]


def line_of(service: Service, request: str) -> dict[str, Any]:
    """The one line of a request, once it is there."""
    eventually(f"the line of {request}", lambda: request in service.err())
    (line,) = [line for line in lines(service) if line.get("request_id") == request]
    return line


@pytest.fixture(scope="module")
def logging_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("logs"), LOG_FORMAT="json", REQUEST_LOG="all") as running:
        yield running


def test_every_line_of_the_service_is_json(launch: Launch) -> None:
    service = launch(LOG_FORMAT="json", REQUEST_LOG="all", GUNICORN_CMD_ARGS="--access-logfile -")
    with service.client() as client:
        client.create("digits-rnn")
    eventually("its lines", lambda: service.log().count("/sessions") >= 2)
    for worker in service.workers():
        worker.kill()
    eventually("a line about the killed worker", lambda: "SIGKILL" in service.err())
    service.stop()
    every = service.log().splitlines()
    parsed = [json.loads(line) for line in every]
    assert {"time", "level", "logger", "process", "message"} <= set.intersection(*map(set, parsed))
    assert {line["logger"] for line in parsed} >= {
        "carryover",
        "carryover.requests",
        "gunicorn.error",
        "gunicorn.access",
    }
    assert len({line["time"][-6:] for line in parsed}) == 1
    assert any("listens at" in line["message"] and "digits-rnn version 1" in line["message"] for line in parsed)


@pytest.mark.parametrize("headers", [{}, UNUSUAL], ids=["short", "flask"])
def test_a_request_has_one_line(logging_all: Service, headers: dict[str, str]) -> None:
    name, request = fresh(), fresh()
    with logging_all.client() as client:
        path = client.create("digits-rnn", name)
        response = client.request("POST", f"{path}:predict", STEP, headers | {"X-Request-ID": request})
    line = line_of(logging_all, request)
    assert 0 < line.pop("duration") < 60
    assert line.pop("time").startswith("20")
    assert line.pop("process") in logging_all.pids()
    assert line == {
        "level": "info",
        "logger": "carryover.requests",
        "message": "request",
        "request_id": request,
        "method": "POST",
        "route": "/v1/models/{model}/sessions/{session}:predict",
        "status": 200,
        "bytes": len(response.body),
        "model": "digits-rnn",
        "session": name,
        "step": 1,
        "batch": 1,
    }


@pytest.mark.parametrize("headers", [{}, UNUSUAL], ids=["short", "flask"])
def test_the_line_of_an_inference_names_its_sequence(logging_all: Service, headers: dict[str, str]) -> None:
    tensor = {"name": "rows", "shape": [1, 1, 8], "datatype": "FP32", "data": ROW}
    body = {"inputs": [tensor], "parameters": {"sequence_id": "scan", "sequence_start": True}}
    sequence, none = fresh(), fresh()
    with logging_all.client() as client:
        path = "/v2/models/digits-rnn/infer"
        client.request("POST", path, json.dumps(body).encode(), headers | {"X-Request-ID": sequence}).expect()
        client.request("POST", path, json.dumps({"inputs": [tensor]}).encode(), headers | {"X-Request-ID": none})
    line = line_of(logging_all, sequence)
    assert (line["session"], line["step"], line["batch"]) == ("scan", 1, 1)
    assert "session" not in line_of(logging_all, none)


def test_a_stream_has_its_line_when_it_ends(logging_all: Service) -> None:
    with logging_all.client() as client:
        path = client.create("digits-rnn")
    with Stream(logging_all.port, path, None, "", **{"X-Request-ID": "streams"}).open() as stream:
        said = len(json.dumps(stream.step([ROW]))) + len(json.dumps(stream.step([ROW])))
        assert "streams" not in {line.get("request_id") for line in lines(logging_all)}
        stream.finish()
        assert stream.line() is None
    line = line_of(logging_all, "streams")
    assert line["route"].endswith("{session}:stream")
    assert line["status"] == 200
    assert line["session"] == path.rpartition("/")[2]
    assert said / 2 < line["bytes"] < said * 2


def test_a_websocket_and_events_have_their_lines_when_they_end(logging_all: Service) -> None:
    with logging_all.client() as client:
        path = client.create("digits-rnn")
    with Events(logging_all.port, path, **{"X-Request-ID": "follows"}) as events:
        assert events.next() is not None
        with talking(logging_all.port, path, headers={"X-Request-ID": "talks"}) as socket:
            assert speak(socket, [ROW])["step"] == 1
            assert "talks" not in {line.get("request_id") for line in lines(logging_all)}
        assert events.steps(1) == [1]
    line = line_of(logging_all, "talks")
    assert (line["status"], line["method"], line["session"]) == (101, "GET", path.rpartition("/")[2])
    assert line["route"].endswith("{session}:stream")
    assert 100 < line["bytes"] < 1000
    with logging_all.client() as client:
        # What is sent shows that the follower has left.
        eventually("its line", lambda: client.step(path, [ROW]) and "follows" in logging_all.err(), interval=0.1)
        line = line_of(logging_all, "follows")
    assert (line["status"], line["session"]) == (200, path.rpartition("/")[2])
    assert 100 < line["bytes"] < 1000


def test_requests_without_a_route_are_logged(logging_all: Service) -> None:
    with logging_all.client() as client:
        client.request("GET", "/nowhere?secret=word", headers={"X-Request-ID": "lost"})
    line = line_of(logging_all, "lost")
    assert (line["status"], line["route"], line["path"]) == (404, "other", "/nowhere")
    wire = Wire(logging_all.port)
    wire.send(b"GET / HTTP/9.9\r\n\r\n")
    made = wire.response().headers["X-Request-ID"]
    wire.close()
    assert line_of(logging_all, made)["status"] == 400


def test_nothing_private_is_logged(logging_all: Service) -> None:
    private = {
        "Idempotency-Key": "confidential-key",
        "Authorization": "Bearer confidential-token",
        "Cookie": "confidential-cookie",
    }
    with logging_all.client() as client:
        path = client.create("digits-rnn")
        for body in (b'{"instances": "confidential-body"}', b'{"confidential-field": 1}', STEP):
            client.request("POST", f"{path}:predict?confidential=query", body, private | {"X-Request-ID": "last"})
    eventually("the lines", lambda: logging_all.err().count('"last"') == 3)
    assert "confidential" not in logging_all.log()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_a_client_chooses_cannot_forge_a_line(launch: Launch, log_format: str) -> None:
    service = launch(LOG_FORMAT=log_format, REQUEST_LOG="all")
    forged = "a%0A[2026-01-01%2000:00:00%20+0000]%20[1]%20[INFO]%20forged=1%0D%22%1b[31m%5C%E2%80%A8"

    def added() -> list[str]:
        return [
            line for line in service.err().split("\n") if line and "/v2/health" not in line and "worker" not in line
        ]

    before = len(added())
    with service.client() as client:
        client.get(f"{RNN}/sessions/{forged}").expect(400)
        client.get(f"/nowhere/{forged}").expect(404)
        client.get(f"/nowhere/{'x' * 3000}").expect(404)
        client.request("GET", "/v1/models", headers={"X-Request-ID": 'status=200"'}).expect()
    found = eventually("four lines", lambda: added()[before:] if len(added()) >= before + 4 else None)
    assert len(found) == 4
    for line in found:
        assert line.isprintable()
        assert len(line) < 700
        if log_format == "json":
            assert "forged" not in json.loads(line)
        else:
            assert re.match(r"\[[^]]+\] \[\d+\] \[INFO\] request request_id=", line)
    assert sum("forged" in line for line in found) == 2


@pytest.mark.parametrize(("setting", "expected"), [("off", []), ("errors", ["wrong"]), ("all", ["right", "wrong"])])
def test_a_setting_says_which_requests_are_logged(launch: Launch, setting: str, expected: list[str]) -> None:
    service = launch(LOG_FORMAT="json", REQUEST_LOG=setting)
    with service.client() as client:
        client.request("GET", "/v1/models", headers={"X-Request-ID": "right"}).expect()
        client.request("GET", "/v1/models/none", headers={"X-Request-ID": "wrong"}).expect(404)
        client.request("GET", "/v2/health/live", headers={"X-Request-ID": "healthy"}).expect()
    service.stop()
    seen = [line["request_id"] for line in lines(service) if "request_id" in line]
    assert [request for request in seen if request in ("right", "wrong", "healthy")] == expected


def test_a_worker_that_stops_loses_no_line(launch: Launch) -> None:
    service = launch(LOG_FORMAT="json", REQUEST_LOG="all")
    with service.client() as client:
        for number in range(50):
            client.request("GET", "/v1/models", headers={"X-Request-ID": f"request-{number}"}).expect()
    service.stop(signal.SIGTERM)
    assert {line["request_id"] for line in lines(service) if "request_id" in line} >= {
        f"request-{number}" for number in range(50)
    }


def test_what_is_served_is_logged_when_the_repository_is_read_again(
    common_models: Path, launch: Launch, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(common_models / "rnn", models / "rnn")
    service = launch(MODEL_REPOSITORY=models, LOG_FORMAT="json")
    shutil.copytree(common_models / "rnn", models / "another")

    def said() -> list[str]:
        return [line["message"] for line in lines(service) if "was read again" in line["message"]]

    old = service.workers()
    service.process.send_signal(signal.SIGHUP)
    psutil.wait_procs(old, PATIENCE)
    assert said() == ["the model repository was read again; serving another (1), rnn (1)"]
    shutil.copytree(models / "rnn" / "1", models / "rnn" / "2")
    (models / "another" / "model.toml").write_text("class = 1")
    with service.client() as client:
        client.post("/v2/repository/models/rnn/load", {}).expect()
    (_, line) = said()
    assert re.fullmatch(r".*; serving another \(1\), rnn \(2, 1\); [1-9] problems are logged above", line)


def test_lines_are_written_in_pieces_that_a_pipe_keeps_together(client: Client) -> None:
    del client
    written: list[bytes] = []
    log = RequestLog(0, json=True, write=written.append)
    for number in range(300):
        log.add(Entry(f"{number}", "GET", "/v1/models", 200, 1000, 10, None, {"session": "é" * number}))
    log.flush()
    assert all(len(piece) <= 4096 and piece.endswith(b"\n") for piece in written)
    found = [json.loads(line) for piece in written for line in piece.splitlines()]
    assert [line["request_id"] for line in found] == [str(number) for number in range(300)]
    assert max(len(line["session"]) for line in found) == 128
