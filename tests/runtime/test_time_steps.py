"""Consecutive steps of a session share a forward where that gives what each gives on its own."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from carryover.runtime import time_steps
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import load_model
from carryover.runtime.selfcheck import difference
from carryover.runtime.version import Call, ModelVersion, Result
from tests.support.paths import CHECKPOINTS
from tests.support.repository import spec, write_lstm, write_model
from tests.support.sources import steps


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    folder = tmp_path_factory.mktemp("time-steps")
    write_lstm(folder)
    return load_model(folder / "lstm").default


def loaded(folder: Path, module: nn.Module) -> ModelVersion:
    write_model(folder, "model", module, [spec((-1, 3))])
    return load_model(folder / "model").default


def rows(*counts: int) -> list[dict[str, Array]]:
    generator = np.random.default_rng(0)
    return [{"x": generator.standard_normal((count, 1, 3)).astype(np.float32)} for count in counts]


@given(counts=st.lists(st.integers(1, 12), min_size=2, max_size=8))
@settings(deadline=None)
def test_steps_that_share_a_forward_get_what_each_gets_alone(lstm: ModelVersion, counts: list[int]) -> None:
    assert lstm.time_steps
    inputs, state = rows(*counts), lstm.initial_state
    joined = time_steps.join(lstm.inputs, state, inputs)
    assert joined is not None
    assert joined.requests == len(joined.counts)
    together = lstm.run([joined])[0]
    outputs = time_steps.split(lstm.outputs, together.outputs, joined.counts)
    assert outputs is not None
    for given_, found in zip(inputs[: joined.requests], outputs, strict=True):
        alone = lstm.run([Call(given_, state)])[0]
        state = alone.state
        assert difference(lstm, alone, Result(found, state, None)) is None
    assert difference(lstm, Result(outputs[-1], state, None), Result(outputs[-1], together.state, None)) is None


@pytest.mark.parametrize(
    ("counts", "joined"),
    [((64,), 0), ((1, 64), 0), ((65, 1), 0), ((1, 63, 1), 2), ((1,) * 100, 64), ((3, 0, 1), 0), ((), 0)],
)
def test_a_forward_takes_as_many_rows_as_were_tried(lstm: ModelVersion, counts: Sequence[int], joined: int) -> None:
    found = time_steps.join(lstm.inputs, lstm.initial_state, rows(*counts))
    assert (found.requests if found else 0) == joined


def test_steps_of_different_shapes_or_datatypes_do_not_share_a_forward(lstm: ModelVersion) -> None:
    one, other = rows(1, 1)
    for changed in (other["x"].astype(np.float64), other["x"][..., :2]):
        assert time_steps.join(lstm.inputs, lstm.initial_state, [one, {"x": changed}]) is None


def test_the_digits_rnn_and_no_accumulator_has_time_steps() -> None:
    assert load_model(CHECKPOINTS / "digits-rnn").default.time_steps
    for name in ("accumulator", "digits-batchnorm"):
        assert not load_model(CHECKPOINTS / name).default.time_steps


@pytest.mark.parametrize("build", [steps.Decay, steps.Cache])
def test_rows_that_are_time_steps_are_found(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    assert loaded(tmp_path, build()).time_steps


@pytest.mark.parametrize("build", [steps.Centred, steps.Counts, steps.Silences, steps.Forgets, steps.Draws, steps.Last])
def test_rows_that_are_none_are_found(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    assert not loaded(tmp_path, build()).time_steps
