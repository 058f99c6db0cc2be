"""What the committed checkpoints promise, and that training makes them."""

import json
import tomllib
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.rnn import RNNClassifier
from models.train import RECIPES, Digits, split_digits, train

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
CLASSIFIERS = {"digits-batchnorm": 0.975, "digits-rnn": 0.94}
"""The accuracy on held-out digits that each is good for."""


@pytest.fixture(scope="module")
def held_out() -> Digits:
    return split_digits()[1]


def test_the_batchnorm_classifier_keeps_its_promise(held_out: Digits) -> None:
    with torch.inference_mode():
        probabilities = load("digits-batchnorm")(held_out.images.flatten(1))
    assert_as_promised("digits-batchnorm", probabilities, held_out)


def test_the_rnn_keeps_its_promise_reading_row_by_row(held_out: Digits) -> None:
    model = load("digits-rnn")
    assert isinstance(model, RNNClassifier)
    after_the_last_row = []
    with torch.inference_mode():
        for image in held_out.images:
            model.reset()
            for row in image:
                probabilities = model(row[None, None])
            after_the_last_row.append(probabilities[0, 0])
    assert_as_promised("digits-rnn", torch.stack(after_the_last_row), held_out)


def test_the_rnn_has_a_fair_guess_halfway(held_out: Digits) -> None:
    model = load("digits-rnn")
    assert isinstance(model, RNNClassifier)
    model.reset(len(held_out.images))
    with torch.inference_mode():
        likeliest = model(held_out.images.transpose(0, 1)).argmax(-1)
    accuracies = (likeliest == held_out.labels).double().mean(1)
    assert accuracies[3] > 0.5
    assert accuracies[:5].tolist() == sorted(accuracies[:5].tolist())


def assert_as_promised(name: str, probabilities: Tensor, held_out: Digits) -> None:
    right = int((probabilities.argmax(-1) == held_out.labels).sum())
    report = json.loads((CHECKPOINTS / name / "1" / "training.json").read_text())
    assert report["model"] == name
    assert report["held_out_size"] == len(held_out.labels)
    assert right / len(held_out.labels) == report["held_out_accuracy"]
    assert right / len(held_out.labels) >= CLASSIFIERS[name]


@pytest.mark.parametrize("name", ["digits-batchnorm", "digits-rnn", "accumulator"])
def test_a_checkpoint_holds_every_parameter_and_buffer(name: str) -> None:
    weights = load_file(CHECKPOINTS / name / "1" / "weights.safetensors")
    model = build(name)
    assert weights.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert weights[key].shape == tensor.shape, key
        assert weights[key].dtype == tensor.dtype, key


@pytest.mark.parametrize("name", ["digits-rnn", "accumulator"])
def test_a_checkpoints_state_is_the_initial_one(name: str) -> None:
    weights = load_file(CHECKPOINTS / name / "1" / "weights.safetensors")
    for key, buffer in build(name).named_buffers():
        assert torch.equal(weights[key], buffer), key


def test_the_batchnorm_checkpoint_carries_trained_statistics() -> None:
    weights = load_file(CHECKPOINTS / "digits-batchnorm" / "1" / "weights.safetensors")
    for key, untrained in build("digits-batchnorm").named_buffers():
        assert not torch.allclose(weights[key], untrained, atol=0.1), key


def test_held_out_digits_are_never_trained_on() -> None:
    training, held_out = split_digits()
    assert len(training.labels) == 1437
    assert len(held_out.labels) == 360
    seen = {image.numpy().tobytes() for image in training.images}
    assert not any(image.numpy().tobytes() in seen for image in held_out.images)
    for digit, count in Counter(held_out.labels.tolist()).items():
        assert abs(count - 0.2 * (count + int((training.labels == digit).sum()))) <= 1


def test_training_twice_writes_the_same_files(tmp_path: Path) -> None:
    short = tuple(replace(recipe, epochs=2) for recipe in RECIPES)
    files: list[dict[Path, bytes]] = []
    for folder in (tmp_path / "once", tmp_path / "again"):
        train(folder, short)
        files.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert files[0] == files[1]
    assert {str(path) for path in files[0]} == {
        "accumulator/1/weights.safetensors",
        "digits-batchnorm/1/training.json",
        "digits-batchnorm/1/weights.safetensors",
        "digits-rnn/1/training.json",
        "digits-rnn/1/weights.safetensors",
    }


def test_training_leaves_the_manifests_alone(tmp_path: Path) -> None:
    manifest = tmp_path / "accumulator" / "model.toml"
    manifest.parent.mkdir()
    manifest.write_text("written by hand")
    train(tmp_path, ())
    assert manifest.read_text() == "written by hand"
    assert (manifest.parent / "1" / "weights.safetensors").is_file()


def load(name: str) -> nn.Module:
    model = build(name)
    model.load_state_dict(load_file(CHECKPOINTS / name / "1" / "weights.safetensors"), strict=True)
    return model.eval()


def build(name: str) -> nn.Module:
    manifest: dict[str, Any] = tomllib.loads((CHECKPOINTS / name / "model.toml").read_text())
    module, _, class_name = manifest["class"].partition(":")
    model = getattr(import_module(module), class_name)(**manifest.get("arguments", {}))
    assert isinstance(model, nn.Module)
    return model
