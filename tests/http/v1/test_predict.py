"""Stateless prediction: real checkpoints, and the forms that instances and predictions take."""

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from models.batchnorm import BatchNormClassifier
from models.train import split_digits
from tests.support.client import Client
from tests.support.paths import CHECKPOINTS
from tests.support.repository import batchnorm, library_batchnorm
from tests.support.service import Service
from tests.support.sources import plain
from tests.support.waiting import together


def test_real_digits_get_real_predictions(client: Client) -> None:
    held_out = split_digits()[1]
    answers = client.predict("digits-batchnorm", held_out.images.flatten(1).tolist())
    labels = [int(answer["label"]) for answer in answers]
    right = sum(label == digit for label, digit in zip(labels, held_out.labels.tolist(), strict=True))
    assert right / len(labels) >= 0.975


def test_a_classifier_gives_its_label_and_all_probabilities(client: Client) -> None:
    model = BatchNormClassifier()
    model.load_state_dict(load_file(CHECKPOINTS / "digits-batchnorm/1/weights.safetensors"))
    pixels = torch.rand(5, 64) * 16
    with torch.inference_mode():
        expected = model.eval()(pixels)
    answers = client.predict("digits-batchnorm", pixels.tolist())
    assert [set(answer) for answer in answers] == [{"label", "probabilities"}] * 5
    assert_close(torch.tensor([answer["probabilities"] for answer in answers]), expected, rtol=0, atol=1e-5)
    assert [answer["label"] for answer in answers] == [str(int(row.argmax())) for row in expected]


@pytest.mark.parametrize(
    ("name", "module"),
    [("batchnorm", batchnorm()), ("library", library_batchnorm()), ("statistics", plain.Statistics().eval())],
)
def test_a_module_gives_what_it_gives_in_a_shell(client: Client, name: str, module: torch.nn.Module) -> None:
    x = torch.randn(7, 3)
    with torch.inference_mode():
        expected = module(x)
    assert_close(torch.tensor(client.predict(name, x.tolist())), expected, rtol=0, atol=1e-5)


def test_one_plain_output_gives_its_values(client: Client) -> None:
    assert client.predict("identity-fp32-0", [1, 2.5]) == [1.0, 2.5]


def test_an_output_without_an_instance_axis_gives_one_prediction(client: Client) -> None:
    assert client.predict("sum", [1, 2, 3]) == [6.0]


def test_several_outputs_give_an_object_by_name(client: Client) -> None:
    assert client.predict("pair", [1.5, -2]) == [{"x": 3.0, "positive": True}, {"x": -4.0, "positive": False}]


def test_several_inputs_are_objects_by_name(client: Client) -> None:
    instances = [{"x": [1.5, 2.5], "index": 1, "flag": True}, {"flag": False, "index": 0, "x": [3, 4]}]
    assert client.predict("mixed", instances) == [{"chosen": 2.5, "kept": 1}, {"chosen": 3.0, "kept": -1}]


def test_one_input_may_be_named_too(client: Client) -> None:
    assert client.predict("identity-fp32-1", [{"x": [1, 2, 3]}]) == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("row", [[1, 2, 3, 4, 5, 6, 7, 8], [[1, 2, 3, 4, 5, 6, 7, 8]]])
def test_dimensions_of_size_1_may_be_left_out(client: Client, row: object) -> None:
    answers = client.predict("digits-rnn", [row, row])
    assert len(answers) == 2
    assert answers[0] != answers[1]
    assert answers == client.predict("digits-rnn", [[[1, 2, 3, 4, 5, 6, 7, 8]]] * 2)


def test_what_json_cannot_say_is_null(client: Client) -> None:
    assert client.predict("batchnorm", [[3e38, 0, 0], [-3e38, 0, 0]])[0][1] is not None
    overflow = client.predict("pair", [3e38])
    assert overflow == [{"x": None, "positive": True}]


def test_requests_that_come_together_get_their_own_predictions(service: Service) -> None:
    def ask(number: int) -> bool:
        with service.client() as client:
            sizes = [1 + (number + i) % 5 for i in range(50)]
            return all(
                client.predict("identity-fp32-1", [[number, i, 0]] * size) == [[number, i, 0]] * size
                for i, size in enumerate(sizes)
            )

    assert all(together(ask, list(range(16))))


def test_a_forward_that_fails_fails_alone(service: Service) -> None:
    def ask(number: int) -> int:
        with service.client() as client:
            bad = number % 4 == 0
            for _ in range(20):
                answer = client.post("/v1/models/fails:predict", {"instances": [-1000 if bad else number]})
                if bad:
                    text = answer.expect(422)["detail"]
                    assert "fails" in text
                    assert "secret" not in text
                else:
                    assert answer.expect()["predictions"] == [[number + 1]]
        return number

    assert together(ask, list(range(12))) == list(range(12))
