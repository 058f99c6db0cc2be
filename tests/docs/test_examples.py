"""The examples: each is served, its client shows what it says, and its checkpoint can be trained again."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.support.paths import ROOT
from tests.support.service import Service
from tests.support.waiting import together

EXAMPLES = ROOT / "examples"
NAMES = ["detector", "forecaster", "normaliser"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, as anyone may take one, its checkpoints trained again."""
    folder = tmp_path_factory.mktemp("trained") / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__", "1"))
    together(lambda name: run(f"examples.{name}.train", folder.parent), NAMES)
    return folder


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, list[str]]]:
    """What each client prints, line by line."""
    service = Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY="examples")
    try:
        address = f"http://127.0.0.1:{service.start().port}"
        printed = together(lambda name: run(f"examples.{name}.client", ROOT, address).splitlines(), NAMES)
        yield dict(zip(NAMES, printed, strict=True))
    finally:
        service.end()


def run(module: str, folder: Path, *arguments: str) -> str:
    """Run a module as a program, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": "", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", line)]


def test_there_is_nothing_but_models() -> None:
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith("_"))
    assert folders == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_complete_and_small(name: str) -> None:
    folder = EXAMPLES / name
    assert (folder / "model.toml").is_file()
    assert (folder / "client.py").is_file()
    assert len((folder / f"{name}.py").read_text().splitlines()) < 40
    weights = folder / "1" / "weights.safetensors"
    assert weights.stat().st_size < 10_000
    assert weights.stat().st_mode & 0o777 == 0o644


def test_the_detector_tells_the_two_sharp_waves_from_the_rest(said: Mapping[str, list[str]]) -> None:
    remembering, forgetting = said["detector"]
    alarms, samples, *seconds = numbers(remembering)
    assert samples == 800
    assert alarms < 20
    assert seconds == [6.7, 8.6]
    assert numbers(forgetting)[0] > 1.5 * alarms
    assert len(numbers(forgetting)) > 6


def test_the_normaliser_ends_with_the_mean_and_variance_of_the_whole_stream(said: Mapping[str, list[str]]) -> None:
    remembering, forgetting, at_once = said["normaliser"]
    assert "unusual are 2008-10, 2020-03;" in remembering
    assert remembering.partition("; ")[2] == at_once.partition(": ")[2]
    assert "2002-09" in forgetting


def test_the_forecaster_needs_the_samples_that_its_ring_buffer_holds(said: Mapping[str, list[str]]) -> None:
    remembering, forgetting, nothing_changes = (numbers(line)[0] for line in said["forecaster"])
    assert remembering < 4
    assert remembering < forgetting / 1.5
    assert remembering < nothing_changes / 2


def test_the_detector_can_be_trained_again(trained: Path) -> None:
    series = import_module("examples.detector.series")
    with torch.inference_mode():
        surprise = load("detector", trained)(torch.tensor(series.eeg(), dtype=torch.float32)[:, None])[:, 0]
    seconds = {round(sample / series.RATE, 1) for sample in (surprise > 4).nonzero()[:, 0].tolist()}
    assert seconds == {6.7, 8.6}


def test_the_normaliser_can_be_trained_again(trained: Path) -> None:
    again, kept = load("normaliser", trained).state_dict(), load("normaliser", EXAMPLES).state_dict()
    assert again == kept
    assert kept["count"].item() == 119


def test_the_forecaster_can_be_trained_again(trained: Path) -> None:
    series = import_module("examples.forecaster.series")
    samples = torch.tensor(series.potential()[1])
    with torch.inference_mode():
        forecasts = load("forecaster", trained)(samples[:, None])[:, 0]
    assert (forecasts[32 : -series.AHEAD] - samples[32 + series.AHEAD :]).abs().mean() < 4


def test_the_forecasters_ring_buffer_is_its_convolution() -> None:
    """Sample by sample it gives what it gives over the series at once."""
    model: Any = load("forecaster", EXAMPLES)
    samples = torch.tensor(import_module("examples.forecaster.series").potential()[1][:100])
    standard = (samples - model.centre) / model.scale
    with torch.inference_mode():
        streamed = model(samples[:, None])[31:, 0]
        at_once = (standard[31:] + model.convolution(standard[None, None])[0, 0]) * model.scale + model.centre
    torch.testing.assert_close(streamed, at_once, rtol=1e-5, atol=1e-3)


def load(name: str, folder: Path) -> nn.Module:
    """An example's module with the checkpoint of a folder."""
    model = getattr(import_module(f"examples.{name}.{name}"), name.capitalize())()
    assert isinstance(model, nn.Module)
    model.load_state_dict(load_file(folder / name / "1" / "weights.safetensors"))
    return model.eval()
