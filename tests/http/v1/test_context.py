"""State goes on from call to call, wherever the calls land."""

from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from models.rnn import RNNClassifier
from models.train import split_digits
from tests.support.client import Client
from tests.support.paths import CHECKPOINTS
from tests.support.repository import gru, lstm, rnn
from tests.support.service import Service


def digits() -> RNNClassifier:
    model = RNNClassifier()
    model.load_state_dict(load_file(CHECKPOINTS / "digits-rnn/1/weights.safetensors"))
    return model.eval()


RECURRENT: list[tuple[str, Callable[[], nn.Module], int, int]] = [
    ("digits-rnn", digits, 8, 1),
    ("rnn", rnn, 3, 1),
    ("rnn-alone", rnn, 3, 1),
    ("lstm", lstm, 3, 1),
    ("gru", gru, 3, 0),
]
"""Name, module, features, and the axis of size 1 in (T, 1, F) or (1, T, F)."""
recurrent = pytest.mark.parametrize(("name", "build", "features", "axis"), RECURRENT, ids=[r[0] for r in RECURRENT])


def outputs(name: str, predictions: list[object]) -> Tensor:
    if name == "digits-rnn":
        predictions = [answer["probabilities"] for answer in predictions if isinstance(answer, dict)]
    # Without a batch_dim, the axis of size 1 is the model's own, and stays.
    return torch.tensor(predictions).flatten(1)


def in_a_shell(module: nn.Module, rows: Tensor, axis: int) -> Tensor:
    with torch.inference_mode():
        output: Tensor = module(rows.unsqueeze(axis))
    return output.squeeze(axis)


@recurrent
def test_eight_calls_over_all_workers_are_one_call_and_the_plain_module(
    service: Service, name: str, build: Callable[[], nn.Module], features: int, axis: int
) -> None:
    rows = torch.randn(8, features) * 3
    expected = in_a_shell(build(), rows, axis)
    with service.one_client_a_worker() as clients:
        address = clients[0].create(name)
        parts = []
        for step, (row, client) in enumerate(zip(rows.tolist(), cycle(clients)), 1):
            answer = client.step(address, [row])
            assert answer["step"] == step
            parts += answer["predictions"]
        whole = clients[0].step(clients[0].create(name), rows.tolist())["predictions"]
        stateless = clients[0].predict(name, rows.tolist())
    for predictions in (parts, whole, stateless):
        assert_close(outputs(name, predictions), expected, rtol=0, atol=1e-5)


@recurrent
def test_stateless_prediction_keeps_nothing(
    client: Client, name: str, build: Callable[[], nn.Module], features: int, axis: int
) -> None:
    row = torch.randn(1, features) * 3
    expected = in_a_shell(build(), row, axis)
    for _ in range(5):
        assert_close(outputs(name, client.predict(name, row.tolist())), expected, rtol=0, atol=1e-5)


def test_stateless_prediction_does_not_see_or_change_a_session(client: Client) -> None:
    address = client.create("sum")
    assert client.step(address, [1, 2])["predictions"] == [3.0]
    assert client.predict("sum", [10]) == [10.0]
    assert client.step(address, [4])["predictions"] == [7.0]
    assert client.predict("sum", [10]) == [10.0]


def test_instances_of_a_session_are_consecutive_time_steps(client: Client) -> None:
    rows = torch.randn(12, 3)
    cuts = client.create("lstm"), client.create("lstm")
    one = [p for part in (rows[:1], rows[1:5], rows[5:]) for p in client.step(cuts[0], part.tolist())["predictions"]]
    other = [p for part in (rows[:6], rows[6:]) for p in client.step(cuts[1], part.tolist())["predictions"]]
    assert_close(torch.tensor(one), torch.tensor(other), rtol=0, atol=1e-5)


def test_real_digits_are_read_row_by_row_in_sessions_side_by_side(client: Client) -> None:
    held_out = split_digits()[1]
    names = [client.create("digits-rnn").rpartition("/")[2] for _ in held_out.labels]
    for row in range(8):
        body = {"sessions": {name: [image[row].tolist()] for name, image in zip(names, held_out.images, strict=True)}}
        entries = client.post("/v1/models/digits-rnn/sessions:predict", body).expect()["sessions"]
        assert {entry["step"] for entry in entries.values()} == {row + 1}
    said = [int(entries[name]["predictions"][0]["label"]) for name in names]
    right = sum(label == digit for label, digit in zip(said, held_out.labels.tolist(), strict=True))
    assert right / len(names) >= 0.94
