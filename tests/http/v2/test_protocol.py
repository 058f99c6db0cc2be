"""The Open Inference Protocol in JSON: what its specification says, held against its own OpenAPI document."""

import json
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from carryover import __version__
from tests.support.client import Client, problem
from tests.support.open_inference import conforms, described, infer


def test_the_server_lives_and_is_ready(client: Client) -> None:
    assert client.get("/v2/health/live").expect() == {"live": True}
    assert client.get("/v2/health/ready").expect()["ready"] is True


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_says_what_it_is(client: Client, path: str) -> None:
    body = conforms("metadata_server_response", client.get(path).expect())
    assert body["name"] == "carryover"
    assert body["version"] == __version__
    assert {"sequence", "binary_tensor_data", "statistics", "classification"} <= set(body["extensions"])


@pytest.mark.parametrize("path", ["/v2/models/rnn", "/v2/models/rnn/versions/1"])
def test_a_model_says_what_it_takes_and_gives(client: Client, path: str) -> None:
    body = conforms("metadata_model_response", client.get(path).expect())
    assert body["name"] == "rnn"
    assert body["versions"] == ["1"]
    assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 3]}]
    assert body["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 1, 5]}]
    assert client.get(f"{path}/ready").expect() == {"name": "rnn", "ready": True}


def test_every_models_metadata_conforms(client: Client) -> None:
    for model in client.get("/v1/models").expect()["models"]:
        conforms("metadata_model_response", client.get(f"/v2/models/{model['name']}").expect())


@pytest.mark.parametrize("path", ["/v2/models/digits-rnn/config", "/v2/models/digits-rnn/versions/1/config"])
def test_the_configuration_is_a_model_config(client: Client, path: str) -> None:
    body = client.get(path).expect()
    assert body["name"] == "digits-rnn"
    assert body["max_batch_size"] == 0
    assert body["input"] == [{"name": "rows", "data_type": "TYPE_FP32", "dims": [-1, 1, 8]}]
    assert body["output"][0]["dims"] == [-1, 1, 10]
    sequences = body["sequence_batching"]
    assert sequences["max_sequence_idle_microseconds"] == 3_600_000_000
    assert [(state["input_name"], state["dims"]) for state in sequences["state"]] == [("hidden", [1, 1, 64])]
    assert "sequence_batching" not in client.get("/v2/models/pair/config").expect()


@pytest.mark.parametrize("rest", ["", "/ready", "/config"])
def test_unknown_models_and_versions_are_named_as_triton_names_them(client: Client, rest: str) -> None:
    text = problem(client.get(f"/v2/models/nope{rest}"), 404)
    assert text == "Request for unknown model: 'nope' is not found"
    text = problem(client.get(f"/v2/models/rnn/versions/9{rest}"), 404)
    assert text == "Request for unknown model: 'rnn' version 9 is not found"


def test_statistics_of_unknown_models_and_versions(client: Client) -> None:
    """In other words than elsewhere, as Triton has it."""
    for version in ("", "/versions/1"):
        assert problem(client.get(f"/v2/models/nope{version}/stats"), 404) == "requested model 'nope' is not available"
    text = problem(client.get("/v2/models/rnn/versions/9/stats"), 404)
    assert text == "requested model version is not available for model 'rnn'"


def test_inference_on_an_unknown_model(client: Client) -> None:
    answer = infer(client, "nope", described([1.0]))
    assert problem(answer, 404) == "Request for unknown model: 'nope' is not found"
    conforms("inference_error_response", answer.json)


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_inference(client: Client, version: str) -> None:
    request = conforms("inference_request", {"id": "ä-1", "inputs": [described([1.0, -2.0])]})
    body = conforms("inference_response", client.post(f"/v2/models/pair{version}/infer", request).expect())
    assert body == {
        "model_name": "pair",
        "model_version": "1",
        "id": "ä-1",
        "outputs": [
            {"name": "x", "datatype": "FP32", "shape": [2], "data": [2.0, -4.0]},
            {"name": "positive", "datatype": "BOOL", "shape": [2], "data": [True, False]},
        ],
    }
    assert "id" not in client.post(f"/v2/models/pair{version}/infer", {"inputs": request["inputs"]}).expect()


def test_outputs_are_those_asked_for_in_that_order(client: Client) -> None:
    body = infer(client, "pair", described([1.0]), outputs=[{"name": "positive"}]).expect()
    assert [output["name"] for output in body["outputs"]] == ["positive"]
    body = infer(client, "pair", described([1.0]), outputs=[{"name": "positive"}, {"name": "x"}]).expect()
    assert [output["name"] for output in body["outputs"]] == ["positive", "x"]
    body = infer(client, "pair", described([1.0]), outputs=[]).expect()
    assert [output["name"] for output in body["outputs"]] == ["x", "positive"]


def test_parameters_of_other_servers_are_accepted(client: Client) -> None:
    parameters = {"priority": 3, "timeout": 1000, "own": "x", "number": 1.5, "flag": True}
    one = described([1.0], parameters={"note": "n"})
    body = infer(client, "pair", one, outputs=[{"name": "x", "parameters": {"other": 1}}], parameters=parameters)
    assert body.expect()["outputs"][0]["data"] == [2.0]


def test_data_may_be_nested_or_flat(client: Client) -> None:
    nested = [[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]]
    for data in (nested, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]):
        body = infer(client, "identity-fp32-2", described(data, [3, 1, 2])).expect()
        assert body["outputs"] == [
            {"name": "x", "datatype": "FP32", "shape": [3, 1, 2], "data": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
        ]
    assert infer(client, "identity-fp32-8", described([7.5], [])).expect()["outputs"][0]["shape"] == []


def test_several_inputs_in_any_order(client: Client) -> None:
    inputs = [
        described([True, False], datatype="BOOL", name="flag"),
        described([[1.0, 2.0], [3.0, 4.0]]),
        described([1, 0], datatype="INT64", name="index"),
    ]
    outputs = infer(client, "mixed", *inputs).expect()["outputs"]
    assert [output["data"] for output in outputs] == [[2.0, 3.0], [1, -1]]


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else 1.0


_LARGE = 2**62
_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"inputs": []}, "missing required input(s) ['x']"),
    ({}, "'inputs' is missing"),
    ({"inputs": {}}, "inputs must be a list"),
    ({"inputs": [1]}, "inputs[0] must be an object"),
    ({"inputs": [{"name": "x"}]}, "is missing"),
    ({"inputs": [described([1.0], name="y")]}, "unexpected inference input 'y' for model 'pair'"),
    ({"inputs": [described([1.0]), described([1.0])]}, "input 'x' already exists in request"),
    ({"inputs": [described([1.0]), described([1.0], name="y")]}, "unexpected inference input 'y'"),
    ({"inputs": [described([1], datatype="INT32")]}, "data-type is 'INT32', but model 'pair' expects 'FP32'"),
    ({"inputs": [described(["a"], datatype="BYTES")]}, "data-type is 'BYTES', but model 'pair' expects 'FP32'"),
    ({"inputs": [described([[1.0]])]}, "unexpected shape for input 'x' for model 'pair'. Expected [-1], got [1,1]"),
    ({"inputs": [described([1.0], [])]}, "Expected [-1], got []"),
    ({"inputs": [described([], [0])]}, "Expected [-1], got [0]"),
    ({"inputs": [described([1.0], [-1])]}, "inputs[0].shape[0]"),
    ({"inputs": [described([1.0], [1.5])]}, "inputs[0].shape[0]"),
    ({"inputs": [described([1.0, 2.0], [3])]}, "shape does not match true shape of 'data' field"),
    ({"inputs": [described([1.0, 2.0], [1])]}, "shape does not match true shape of 'data' field"),
    ({"inputs": [described([[1.0], [2.0]], [2])]}, "shape does not match true shape of 'data' field"),
    ({"inputs": [described([1.0], [_LARGE])]}, "shape does not match true shape of 'data' field"),
    ({"inputs": [described([1.0], [2**70])]}, "inputs[0].shape[0]"),
    ({"inputs": [described([[2.0], 1.0], [2])]}, "its data is nested 2 deep"),
    ({"inputs": [described([1.0, "2"], [2])]}, "inputs[0].data[1] must be a number"),
    ({"inputs": [described([True], [1])]}, "inputs[0].data[0] must be a number"),
    ({"inputs": [described([None], [1])]}, "inputs[0].data[0] must be a number"),
    ({"inputs": [described([1e39], [1])]}, "not a finite FP32"),
    ({"inputs": [described([float("nan")], [1])]}, "not a finite FP32"),
    ({"inputs": [described([float("inf")], [1])]}, "not a finite FP32"),
    ({"inputs": [described(_nested(100), [1])]}, "its data is nested 100 deep"),
    ({"inputs": [described([], [1])]}, "its data [0]"),
    ({"inputs": [described("1", [1])]}, "inputs[0].data must be a list"),
    ({"inputs": [described(None, [1])]}, "must have either 'data', or 'binary_data_size'"),
    ({"inputs": [described([1.0], parameters={"binary_data_size": 4})]}, "must have either 'data', or"),
    ({"inputs": [described([1.0], parameters=[])]}, "inputs[0].parameters must be an object"),
    ({"inputs": [described([1.0])], "outputs": [{"name": "z"}]}, "unexpected inference output 'z' for model 'pair'"),
    ({"inputs": [described([1.0])], "outputs": [{"name": "x"}] * 2}, "output 'x' already exists in request"),
    ({"inputs": [described([1.0])], "outputs": [{}]}, "'outputs[0].name' is missing"),
    ({"inputs": [described([1.0])], "id": 7}, "id must be a string"),
    ({"inputs": [described([1.0])], "parameters": 7}, "parameters must be an object"),
    ({"inputs": [described([1.0])], "parameters": {"binary_data_output": 1}}, "binary_data_output"),
    (
        {"inputs": [described([1.0])], "outputs": [{"name": "positive", "parameters": {"classification": 1}}]},
        "class result not available for output due to unsupported type 'BOOL'",
    ),
]


@pytest.mark.parametrize(("body", "sentence"), _WRONG)
def test_what_is_wrong_is_said(client: Client, body: dict[str, Any], sentence: str) -> None:
    answer = client.post("/v2/models/pair/infer", json.dumps(body).encode())
    assert sentence in problem(answer, 400)
    conforms("inference_error_response", answer.json)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"inputs": [', b"\xff\xfe", b'"' + b"[" * 5000])
def test_what_is_not_a_request_is_rejected(client: Client, body: bytes) -> None:
    problem(client.post("/v2/models/pair/infer", body), 400)


def test_inputs_of_different_numbers_of_rows_are_rejected(client: Client) -> None:
    inputs = [
        described([True, False], datatype="BOOL", name="flag"),
        described([[1.0, 2.0]]),
        described([1, 0], datatype="INT64", name="index"),
    ]
    text = problem(infer(client, "mixed", *inputs), 400)
    assert "batch size does not match other inputs for 'mixed'" in text


@pytest.mark.parametrize("name", ["a\nb", "\x00", "ä" * 500, "'"])
def test_odd_names_are_shown_as_they_are_safe(client: Client, name: str) -> None:
    problem(infer(client, "pair", described([1.0], name=name)), 400)
    problem(infer(client, "pair", described([1.0]), outputs=[{"name": name}]), 400)
    problem(infer(client, "pair", described([1.0], datatype=name)), 400)
    quoted = quote(name, safe="")
    problem(client.get(f"/v2/models/{quoted}"), 404)
    problem(client.get(f"/v2/models/pair/versions/{quoted}"), 404)
    problem(client.post(f"/v2/repository/models/{quoted}/load", b""), 400)


def test_shared_memory_is_said_to_be_unsupported(client: Client) -> None:
    parameters = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    one = {"name": "x", "shape": [1], "datatype": "FP32", "parameters": parameters}
    assert "does not support shared memory" in problem(infer(client, "pair", one), 501)
    outputs = [{"name": "x", "parameters": parameters}]
    assert "does not support shared memory" in problem(infer(client, "pair", described([1.0]), outputs=outputs), 501)


def test_a_model_that_fails_tells_nothing_of_its_insides(client: Client) -> None:
    text = problem(infer(client, "fails", described([[[-1000.0]]])), 422)
    assert text == "the model 'fails' does not take this input: forward raised ValueError"


def test_a_stateful_model_without_a_sequence_keeps_nothing(client: Client) -> None:
    for _ in range(3):
        assert infer(client, "sum", described([1.0, 2.0])).expect()["outputs"][0]["data"] == [3.0]


def test_the_same_response_as_kserves_first_version(client: Client) -> None:
    assert client.get("/v1/models/rnn").expect()["ready"] is True
    rows = np.random.default_rng(0).standard_normal((4, 1, 3)).astype(np.float32)
    first = client.predict("rnn", rows[:, 0].tolist())
    second = infer(client, "rnn", described(rows.tolist())).expect()["outputs"][0]["data"]
    assert np.asarray(first, np.float32).reshape(-1).tolist() == np.asarray(second, np.float32).tolist()
