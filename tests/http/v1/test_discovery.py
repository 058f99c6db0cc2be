"""Which buffers are state is found out, not declared; and what is served can be looked up."""

from typing import Any

import pytest
import torch

from tests.support.client import Client
from tests.support.service import Service

STATE = {
    "digits-batchnorm": set(),
    "digits-rnn": {"hidden"},
    "accumulator": {"sum", "compensation", "count", "minimum", "maximum"},
    "rnn": {"hidden"},
    "rnn-alone": {"hidden"},
    "gru": {"hidden"},
    "lstm": {"h", "c"},
    "sum": {"sum"},
    "batchnorm": set(),
    "library": set(),
    "statistics": {"norm.running_mean"},
    "now-and-then": {"largest"},
    "product": {"total"},
    "pair": set(),
}
FROZEN = {
    "digits-batchnorm": {f"layers.{i}.running_{what}" for i in (1, 4) for what in ("mean", "var")},
    "batchnorm": {"running_mean", "running_var"},
    "library": {"running_mean", "running_var", "num_batches_tracked"},
    "statistics": {"norm.running_var", "norm.num_batches_tracked"},
    "product": {"matrix"},
}


def names(tensors: list[dict[str, Any]]) -> set[str]:
    return {tensor["name"] for tensor in tensors}


@pytest.mark.parametrize("model", STATE)
def test_state_buffers_are_those_that_forward_changes(client: Client, model: str) -> None:
    described = client.get(f"/v1/models/{model}").expect()
    assert names(described["state_buffers"]) == STATE[model]
    assert names(described["frozen_buffers"]) == FROZEN.get(model, set())
    assert described["stateful"] is bool(STATE[model])


def test_a_model_is_described(client: Client) -> None:
    described = client.get("/v1/models/digits-rnn").expect()
    assert described["name"] == "digits-rnn"
    assert described["version"] == "1"
    assert described["labels"] == list("0123456789")
    assert described["inputs"] == [{"name": "rows", "datatype": "FP32", "shape": [-1, 1, 8]}]
    assert described["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 1, 10]}]
    assert described["state_buffers"] == [{"name": "hidden", "datatype": "FP32", "shape": [1, 1, 64]}]
    assert {"name": "rnn.weight_ih_l0", "datatype": "FP32", "shape": [64, 8]} in described["parameters"]


def test_all_models_are_listed(client: Client) -> None:
    listed = client.get("/v1/models").expect()["models"]
    assert STATE.keys() <= names(listed)
    assert client.get("/v1/models/rnn").expect() in listed


def test_every_datatype_can_be_state(client: Client) -> None:
    address = client.create("kinds")
    # Nine running counts of six elements each, and six truth values that flip.
    sums = [client.step(address, [0])["predictions"] for _ in range(5)]
    assert sums == [[54.0 * calls + 6 * (calls % 2)] for calls in range(1, 6)]
    shown = {tensor["name"]: tensor["datatype"] for tensor in client.get(address).expect()["state"]}
    assert shown["count_bfloat16"] == "BF16"
    assert shown["count_bool"] == "BOOL"


def test_a_buffer_that_changes_now_and_then_is_state_if_the_manifest_says_so(client: Client) -> None:
    address = client.create("now-and-then")
    assert client.step(address, [8])["predictions"] == [1.0]
    assert client.step(address, [4])["predictions"] == [0.5]
    assert client.step(client.create("now-and-then"), [4])["predictions"] == [1.0]


def test_a_buffer_that_is_none_at_first_is_state(client: Client) -> None:
    assert names(client.get("/v1/models/unborn").expect()["state_buffers"]) == {"total"}
    one, other = client.create("unborn"), client.create("unborn")
    assert client.step(one, [1])["predictions"] == [2.0]
    assert client.step(other, [10])["predictions"] == [20.0]
    assert client.step(one, [1])["predictions"] == [3.0]
    assert client.predict("unborn", [5]) == [10.0]


def test_a_module_that_refuses_some_inputs_can_be_served(client: Client) -> None:
    assert client.predict("positive", [1]) == [[2.0]]
    client.post("/v1/models/positive:predict", {"instances": [-1]}).expect(422)


def test_the_dry_run_leaves_the_module_as_it_was(client: Client) -> None:
    x = torch.randn(4, 3)
    once = client.step(client.create("rnn"), x.tolist())["predictions"]
    assert client.step(client.create("rnn"), x.tolist())["predictions"] == once
    assert client.predict("rnn", x.tolist()) == once


def test_the_terminal_says_what_is_served(service: Service) -> None:
    said = service.out()
    assert f"127.0.0.1:{service.port}" in said
    for model in ("digits-batchnorm", "digits-rnn", "accumulator"):
        lines = said.partition(f"  {model} version 1\n")[2].splitlines()[:2]
        frozen, state = (line.split(maxsplit=1) for line in lines)
        assert (frozen[0], state[0]) == ("frozen", "state")
        for words, buffers in ((frozen[1], FROZEN.get(model, set())), (state[1], STATE[model])):
            assert all(f"{name} FP" in words for name in buffers)
            assert (words == "none") is (not buffers)
