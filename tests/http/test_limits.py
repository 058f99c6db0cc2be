"""The work of one request is bounded: beyond a limit it is rejected at once, by name, and nothing is committed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.support.calls import fresh, post, put_state
from tests.support.client import Client, Response, problem, sentence
from tests.support.connections import line_of
from tests.support.repository import spec, write_model
from tests.support.service import Service
from tests.support.sources import plain

PROMPT = 2.0
"""Seconds of CPU within which a request is rejected."""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with low limits, of `sum`, and of `grid`, whose outputs are larger than its inputs."""
    folder = tmp_path_factory.mktemp("limits")
    write_model(folder / "models", "sum", plain.PlainAccumulator(), [spec((-1,))], [spec((), name="sum")])
    write_model(folder / "models", "grid", plain.Grid(), [spec((-1,))], [spec((-1, -1), name="y")])
    limits = {"MAX_ELEMENTS": 100, "MAX_KEYED_ELEMENTS": 64, "MAX_SESSIONS": 10}
    with Service(folder / "service", MODEL_REPOSITORY=folder / "models", WORKERS=1, **limits) as running:
        yield running


@pytest.fixture
def client(bounded: Service) -> Iterator[Client]:
    with bounded.client() as connection:
        yield connection


@contextmanager
def prompt(service: Service) -> Iterator[None]:
    """Check that the workers are busy for a short time only."""

    def busy() -> float:
        return sum(worker.cpu_times().user + worker.cpu_times().system for worker in service.workers())

    before = busy()
    yield
    assert busy() - before < PROMPT


def rejected(response: Response, status: int, limit: str) -> None:
    assert limit in problem(response, status)


def tensor(count: int) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [count], "data": [1.0] * count}


def test_elements_of_inputs(client: Client) -> None:
    path = client.create("sum")
    assert client.step(path, [1.0] * 100)["predictions"] == [100.0]
    for response in (
        client.post(f"{path}:predict", {"instances": [1.0] * 101}),
        client.post("/v1/models/sum:predict", {"instances": [1.0] * 101}),
        client.post("/v2/models/sum/infer", {"inputs": [tensor(101)]}),
    ):
        rejected(response, 413, "MAX_ELEMENTS")
    assert client.step_of(path) == 1


def test_elements_of_outputs_whose_response_is_stored(client: Client) -> None:
    path, key = client.create("grid"), fresh()
    large, small = {"instances": [1.0] * 9}, {"instances": [1.0] * 8}
    rejected(post(client, f"{path}:predict", large, key=key), 413, "MAX_KEYED_ELEMENTS")
    assert client.step_of(path) == 0
    post(client, f"{path}:predict", small, key=key).expect()  # nothing was stored under the key
    assert post(client, f"{path}:predict", large).expect()["step"] == 2


def test_elements_of_outputs_and_the_step_is_not_committed(client: Client) -> None:
    path, key = client.create("grid"), fresh()
    assert client.step(path, [1.0] * 10)["step"] == 1
    rejected(post(client, f"{path}:predict", {"instances": [1.0] * 11}, key=key), 413, "MAX_ELEMENTS")
    rejected(client.post("/v1/models/grid:predict", {"instances": [1.0] * 11}), 413, "MAX_ELEMENTS")
    assert client.step_of(path) == 1


def test_one_call_that_is_too_large_does_not_fail_the_others_of_its_request(bounded: Service, client: Client) -> None:
    small, large = (client.create("sum").rpartition("/")[2] for _ in range(2))
    body = {"sessions": {small: [1.0] * 60, large: [1.0] * 101}}
    entries = client.post("/v1/models/sum/sessions:predict", body).expect()["sessions"]
    assert entries[small]["step"] == 1
    assert "MAX_ELEMENTS" in sentence(entries[large], 413)
    stream = bounded.stream(f"/v1/models/sum/sessions/{small}")
    stream.send(line_of([1.0] * 101) + line_of([1.0]))
    assert "MAX_ELEMENTS" in sentence(stream.line(), 413)
    assert stream.line()["step"] == 2
    stream.close()


def test_sessions_of_a_call(client: Client) -> None:
    many = {"sessions": {f"s{number}": [1.0] for number in range(10)}}
    assert len(client.post("/v1/models/sum/sessions:predict", many).expect()["sessions"]) == 10
    many["sessions"]["s10"] = [1.0]
    rejected(client.post("/v1/models/sum/sessions:predict", many), 413, "MAX_SESSIONS")


def test_a_hundred_thousand_sessions_are_rejected_at_once(service: Service) -> None:
    body = json.dumps({"sessions": {f"{number:x}": [0] for number in range(100_000)}}).encode()
    with service.client() as client, prompt(service):
        rejected(client.post("/v1/models/accumulator/sessions:predict", body), 413, "MAX_SESSIONS")


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_inputs_and_outputs_of_infer(bounded: Service, client: Client, field: str) -> None:
    entry: dict[str, Any] = tensor(1) if field == "inputs" else {"name": "sum"}
    body = {"inputs": [tensor(1)]} | {field: [entry] * (300_000 if field == "outputs" else 150_000)}
    data = json.dumps(body, separators=(",", ":")).encode()
    with prompt(bounded):
        rejected(client.post("/v2/models/sum/infer", data), 413, "fields and values")
    body[field] = [entry] * 1025
    rejected(client.post("/v2/models/sum/infer", body), 400, "1024")


def test_tensors_of_a_state_file(bounded: Service, client: Client) -> None:
    path = client.create("sum")
    file = save({f"t{number}": np.zeros((), np.float32) for number in range(100_000)})
    with prompt(bounded):
        rejected(put_state(client, path, file), 400, "at most 1")
    assert client.step_of(path) == 0


def test_nested_json(client: Client) -> None:
    for path in ("/v1/models/sum:predict", "/v1/models/sum/sessions:predict"):
        body = b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        assert problem(client.post(path, body), 400)
