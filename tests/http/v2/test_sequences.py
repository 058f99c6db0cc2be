"""Sequences are sessions of the same name: created by START, ended by END, on any worker."""

import asyncio
import gzip
import json
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http.aio as triton_aio
from torch.testing import assert_close
from tritonclient.utils import InferenceServerException

from tests.support.calls import fresh
from tests.support.client import JSON, Client, problem
from tests.support.open_inference import HEADER_LENGTH, connected, described, infer, tensor
from tests.support.repository import rnn
from tests.support.service import Service

ONE = np.ones(1, np.float32)


def step(client: Client, value: float, **parameters: Any) -> Any:
    """The answer to one request of a sequence of the running sum."""
    return infer(client, "sum", described([value]), parameters=parameters)


def total(client: Client, value: float, **parameters: Any) -> float:
    """The running sum after one request."""
    (found,) = step(client, value, **parameters).expect()["outputs"][0]["data"]
    return float(found)


@pytest.mark.parametrize("sequence", [3, 2**64 - 1, "e333c95a-07fc-42d2-ab16-033b1a566ed5", "0"])
def test_a_sequence_carries_its_state(service: Service, client: Client, sequence: int | str) -> None:
    with connected(service) as triton:
        for position in range(5):
            result = triton.infer(
                "sum", [tensor(ONE)], sequence_id=sequence, sequence_start=position == 0, sequence_end=position == 4
            )
            assert result.as_numpy("sum") == position + 1
            assert result.get_response()["parameters"] == {"sequence_id": sequence, "step": position + 1}
            found = client.get(f"/v1/models/sum/sessions/{sequence}")
            assert found.status == (410 if position == 4 else 200)


def test_a_sequence_is_a_session(client: Client) -> None:
    name = fresh()
    assert total(client, 5, sequence_id=name, sequence_start=True) == 5
    address = f"/v1/models/sum/sessions/{name}"
    assert client.get(address).expect()["step"] == 1
    assert client.step(address, [2])["predictions"] == [7.0]
    answer = step(client, 1, sequence_id=name)
    assert answer.expect()["outputs"][0]["data"] == [8.0]
    assert answer.headers["ETag"] == '"3"'
    client.post(f"{address}:reset", {}).expect()
    assert total(client, 1, sequence_id=name) == 1
    assert client.delete(address).status == 204
    assert "START flag" in problem(step(client, 1, sequence_id=name), 400)


def test_a_session_goes_on_as_a_sequence(client: Client) -> None:
    client.create("sum", name := fresh())
    assert total(client, 5, sequence_id=name) == 5


@pytest.mark.parametrize("more", [{}, {"sequence_end": True}])
@pytest.mark.parametrize("sequence", [987654321, "unknown"])
def test_a_sequence_without_its_start(service: Service, sequence: int | str, more: dict[str, Any]) -> None:
    with connected(service) as client, pytest.raises(InferenceServerException) as caught:
        client.infer("sum", [tensor(ONE)], sequence_id=sequence, **more)
    assert caught.value.status() == "400"
    assert caught.value.message() == (
        f"inference request for sequence {sequence} to model 'sum' must specify the START flag on the first request of "
        "the sequence"
    )


def test_start_on_a_live_sequence_starts_it_again(client: Client) -> None:
    name = fresh()
    assert total(client, 5, sequence_id=name, sequence_start=True) == 5
    assert total(client, 5, sequence_id=name) == 10
    assert total(client, 1, sequence_id=name, sequence_start=True) == 1
    assert client.step_of(f"/v1/models/sum/sessions/{name}") == 1


def test_end_removes_the_sequence_after_its_step(client: Client) -> None:
    name = fresh()
    assert total(client, 5, sequence_id=name, sequence_start=True) == 5
    assert total(client, 5, sequence_id=name, sequence_end=True) == 10
    assert "START flag" in problem(step(client, 1, sequence_id=name), 400)
    assert client.get(f"/v1/models/sum/sessions/{name}").status == 410
    assert total(client, 2, sequence_id=name, sequence_start=True) == 2


def test_a_sequence_of_one_request(client: Client) -> None:
    name = fresh()
    assert total(client, 5, sequence_id=name, sequence_start=True, sequence_end=True) == 5
    assert client.get(f"/v1/models/sum/sessions/{name}").status in (404, 410)
    assert "START flag" in problem(step(client, 1, sequence_id=name), 400)


@pytest.mark.parametrize("parameters", [{}, {"sequence_id": 0}, {"sequence_id": ""}])
def test_no_sequence(client: Client, parameters: dict[str, Any]) -> None:
    for _ in range(2):
        assert total(client, 5, **parameters) == 5
    for flag in ("sequence_start", "sequence_end"):
        text = problem(step(client, 5, **parameters, **{flag: True}), 400)
        assert "must specify a non-zero or non-empty correlation ID" in text


@pytest.mark.parametrize("sequence", [-1, 2**64, 1.5, True, None, [], "a b", "x" * 129, "ä"])
def test_what_is_no_sequence_id_is_rejected(client: Client, sequence: Any) -> None:
    problem(step(client, 5, sequence_id=sequence, sequence_start=True), 400)


@pytest.mark.parametrize("flag", ["sequence_start", "sequence_end"])
def test_flags_are_true_or_false(client: Client, flag: str) -> None:
    assert flag in problem(step(client, 5, **{"sequence_id": 5, flag: 1}), 400)


@pytest.mark.parametrize("none", [0, "", None])
def test_no_sequence_is_none_also_on_a_model_without_state(client: Client, none: Any) -> None:
    body = infer(client, "pair", described([1.0]), parameters={"sequence_id": none}).expect()
    assert body["outputs"][0]["data"] == [2.0]
    assert "parameters" not in body


def test_a_step_that_fails_changes_nothing(client: Client) -> None:
    name = fresh()
    assert total(client, 3e38, sequence_id=name, sequence_start=True) > 0
    problem(step(client, 3e38, sequence_id=name), 422)
    problem(infer(client, "sum", described([[1.0]]), parameters={"sequence_id": name}), 400)
    assert client.step_of(f"/v1/models/sum/sessions/{name}") == 1


def test_every_worker_knows_the_sequence(service: Service) -> None:
    name = fresh()
    with service.one_client_a_worker() as clients:
        assert len(clients) == 2
        for number in range(1, 9):
            client = clients[number % 2]
            assert total(client, 1, sequence_id=name, sequence_start=number == 1) == number


def test_a_sequence_gives_what_the_module_gives(service: Service) -> None:
    torch.manual_seed(0)
    rows = torch.randn(12, 1, 3)
    expected = rnn()(rows)
    with connected(service) as client:
        for position, row in enumerate(rows):
            result = client.infer(
                "rnn", [tensor(row[None].numpy())], sequence_id=77, sequence_start=position == 0,
                sequence_end=position == 11,
            )  # fmt: skip
            assert_close(torch.from_numpy(result.as_numpy("y").copy())[0], expected[position])


def test_concurrent_sequences_do_not_mix_and_run_together(service: Service, client: Client) -> None:
    torch.manual_seed(0)
    sequences = torch.randn(24, 6, 1, 3)

    async def one(triton: Any, number: int) -> list[Any]:
        return [
            (
                await triton.infer(
                    "rnn",
                    [tensor(row[None].numpy())],
                    sequence_id=f"together-{number}",
                    sequence_start=position == 0,
                    sequence_end=position == 5,
                )
            ).as_numpy("y")
            for position, row in enumerate(sequences[number])
        ]

    async def run() -> list[list[Any]]:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{service.port}", conn_limit=24) as triton:
            return await asyncio.gather(*(one(triton, number) for number in range(24)))

    before = stats(client, "rnn")
    for given, found in zip(sequences, asyncio.run(run()), strict=True):
        assert_close(torch.from_numpy(np.concatenate(found)), rnn()(given), rtol=1e-4, atol=1e-5)
    after = stats(client, "rnn")
    assert after["inference_count"] - before["inference_count"] == 24 * 6
    assert after["execution_count"] - before["execution_count"] < 24 * 6


def test_a_request_is_carried_out_once(client: Client) -> None:
    name, key = fresh(), fresh("key")
    path = "/v2/models/sum/infer"
    data = np.array([2], "<f4").tobytes()
    one = {"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    parameters = {"sequence_id": name, "sequence_start": True, "binary_data_output": True}
    start = json.dumps({"id": "i", "inputs": [one], "parameters": parameters}).encode()
    headers = {HEADER_LENGTH: str(len(start)), "Idempotency-Key": key, "Content-Encoding": "gzip"}
    first = client.request("POST", path, gzip.compress(start + data, mtime=1), headers)
    again = client.request("POST", path, gzip.compress(start + data, mtime=2), headers)
    assert first.status == again.status == 200
    assert first.body == again.body
    assert first.headers[HEADER_LENGTH] == again.headers[HEADER_LENGTH]
    assert first.headers["ETag"] == again.headers["ETag"] == '"1"'
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = client.request("POST", path, gzip.compress(start + bytes(4)), headers)
    problem(other, 422)
    assert total(client, 1, sequence_id=name) == 3


def test_a_retried_end_gets_the_same_response(client: Client) -> None:
    name = fresh()
    assert total(client, 1, sequence_id=name, sequence_start=True) == 1
    body = json.dumps(
        {"inputs": [described([1.0])], "parameters": {"sequence_id": name, "sequence_end": True}}
    ).encode()
    headers = {"Content-Type": JSON, "Idempotency-Key": fresh("key")}
    first, again = (client.request("POST", "/v2/models/sum/infer", body, headers) for _ in range(2))
    assert first.expect() == again.expect()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert client.get(f"/v1/models/sum/sessions/{name}").status == 410


def test_if_match_names_the_step(client: Client) -> None:
    name = fresh()
    assert total(client, 1, sequence_id=name, sequence_start=True) == 1
    body = json.dumps({"inputs": [described([1.0])], "parameters": {"sequence_id": name}}).encode()

    def at(expected: int) -> Any:
        headers = {"Content-Type": JSON, "If-Match": f'"{expected}"'}
        return client.request("POST", "/v2/models/sum/infer", body, headers)

    problem(at(0), 412)
    assert at(1).expect()["parameters"]["step"] == 2


def stats(client: Client, model: str) -> Any:
    (found,) = client.get(f"/v2/models/{model}/stats").expect()["model_stats"]
    return found
