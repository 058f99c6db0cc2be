"""Calls of a module without a batch axis run together where that gives, bit for bit, what each gives alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from carryover.runtime import spare, stacked
from carryover.runtime.repository import load_model
from carryover.runtime.version import Call, ModelVersion
from tests.support.paths import CHECKPOINTS
from tests.support.repository import spec, write_model
from tests.support.sources import stacking


@pytest.fixture(scope="module")
def accumulator() -> ModelVersion:
    return load_model(CHECKPOINTS / "accumulator").default


def loaded(folder: Path, module: nn.Module) -> ModelVersion:
    write_model(folder, "model", module, [spec((-1,))])
    return load_model(folder / "model").default


@given(
    rows=st.integers(1, 20).flatmap(
        lambda size: st.lists(
            # Whole numbers, whose sum is exact in any order: torch's own depends on where a row lies in memory.
            st.lists(st.integers(-(2**40), 2**40).map(float), min_size=size, max_size=size),
            min_size=stacked.FEW,
            max_size=20,
        )
    )
)
@settings(deadline=None)
def test_the_accumulator_gives_the_same_together(accumulator: ModelVersion, rows: list[list[float]]) -> None:
    assert accumulator.stacked
    name = accumulator.inputs[0].name
    states = [accumulator.initial_state] * len(rows)
    for _ in range(2):
        calls = [Call({name: np.array(row)}, state) for row, state in zip(rows, states, strict=True)]
        assert len({accumulator.group(call) for call in calls}) == 1
        alone = [accumulator.run([call])[0] for call in calls]
        together = accumulator.run(calls)
        for one, other in zip(alone, together, strict=True):
            assert (one.state, one.non_finite) == (other.state, other.non_finite)
            for output, values in one.outputs.items():
                np.testing.assert_array_equal(values, other.outputs[output], strict=True)
        states = [result.state for result in alone]


@pytest.mark.parametrize("build", [stacking.Sum, stacking.Rebinds, stacking.HalfPrecision, stacking.Stateless])
def test_what_can_be_stacked_is(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    version = loaded(tmp_path, build())
    assert version.stacked
    calls = [Call({"x": np.full(3, n, np.float32)}, version.initial_state) for n in range(10)]
    for one, other in zip([version.run([call])[0] for call in calls], version.run(calls), strict=True):
        assert one.state == other.state
        for output, values in one.outputs.items():
            np.testing.assert_array_equal(values, other.outputs[output], strict=True)
    again = spare.build(version)
    assert again is not None
    assert again.stacked


@pytest.mark.parametrize("build", [stacking.Branches, stacking.Draws, stacking.Grows])
def test_what_cannot_be_stacked_runs_one_at_a_time(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    version = loaded(tmp_path, build())
    assert not version.stacked
    assert version.group(Call({"x": np.zeros(3, np.float32)}, version.initial_state)) is None


def test_calls_of_different_shapes_do_not_share_a_forward(accumulator: ModelVersion) -> None:
    name = accumulator.inputs[0].name
    groups = {accumulator.group(Call({name: np.zeros(size)}, accumulator.initial_state)) for size in (1, 2)}
    assert len(groups) == 2
