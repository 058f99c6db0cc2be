"""Consecutive steps of one session in one forward, as more rows of its input.

A recurrent network gives for k rows in one forward what it gives in k forwards of one row, for little more than the
price of one. Not every forward does: one may look at its input as a whole, or count its calls. Whether it does is tried
when the model is loaded, and three things must hold:

- Outputs and state are the same but for rounding, however the rows are divided among forwards. The rows differ widely
  in magnitude, so that whatever is taken from all of them together, such as a mean, shows.
- Forward reads no value, so it goes the same way whatever its input.
- A state that has become NaN or infinite stays so: then the last state shows it, and none in between is lost.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, product
from time import thread_time
from typing import Any

import numpy as np
import torch

from carryover.errors import ModelFailedError
from carryover.runtime.datatypes import Array
from carryover.runtime.dispatch import DispatchMode
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.selfcheck import NUMBERS, Numbers, difference, example_inputs
from carryover.runtime.version import Call, ModelVersion, Result

MOST = 64
"""Rows of a forward that several steps share."""
_WAYS = ((2,), (1, 3, 2), (MOST,))
"""Numbers of rows of consecutive forwards; each way is compared with as many forwards of one row."""
_SLOW = 0.005
"""Seconds for a forward of one row, above which trying takes too long."""
_ROWS_AFTER = 3
"""Ordinary rows after an extreme one."""


class Joined:
    """The call that some consecutive steps of a session share; `counts` are their numbers of rows."""

    __slots__ = ("counts", "inputs", "requests", "state")
    sessions = 1

    def __init__(self, inputs: Mapping[str, Array], state: bytes, counts: Sequence[int]) -> None:
        self.inputs = inputs
        self.state = state
        self.counts = counts
        self.requests = len(counts)


def join(specs: Sequence[TensorSpec], state: bytes, steps: Sequence[Mapping[str, Array]]) -> Joined | None:
    """Return the call of the first of some steps, as many as have `MOST` rows together; None where that is one.

    `steps` are the inputs of each, `state` is what the first one starts from.
    """
    counts: list[int] = []
    total = 0
    for inputs in steps:
        count, *others = {inputs[spec.name].shape[spec.instance_axis or 0] for spec in specs}
        total += count
        if others or not count or total > MOST:
            break
        counts.append(count)
    steps = steps[: len(counts)]
    if len(steps) <= 1:
        return None
    try:
        return Joined({spec.name: _concatenated(spec, steps) for spec in specs}, state, counts)
    except (TypeError, ValueError):  # of different datatypes, or of different shapes beside their rows
        return None


def split(
    specs: Sequence[TensorSpec], outputs: Mapping[str, Array], counts: Sequence[int]
) -> list[dict[str, Array]] | None:
    """Return the outputs of each step that has shared a call; None where these do not have one row for each row."""
    ends = [*accumulate(counts)]
    columns = [(spec.name, outputs[spec.name], spec.instance_axis or 0) for spec in specs]
    if any(output.shape[axis] != ends[-1] for _, output, axis in columns):
        return None
    return [
        {name: output[(slice(None),) * axis + (slice(end - count, end),)] for name, output, axis in columns}
        for count, end in zip(counts, ends, strict=True)
    ]


def _concatenated(spec: TensorSpec, steps: Sequence[Mapping[str, Array]]) -> Array:
    arrays = [inputs[spec.name] for inputs in steps]
    return np.concatenate(arrays, axis=spec.instance_axis or 0, dtype=arrays[0].dtype, casting="no")


def settle(version: ModelVersion) -> None:
    """Have consecutive steps of a version share forwards, if they may."""
    specs = (*version.inputs, *version.outputs)
    rows = all(spec.instance_axis is not None and not spec.optional and spec.example is None for spec in specs)
    if not (version.stateful and rows) or any(spec.example_length != 1 for spec in version.inputs):
        return
    for numbers in (*map(_of_all_magnitudes, NUMBERS[:2]), NUMBERS[0]):
        if (same := _same(version, numbers)) is not None:
            version.time_steps = same and _stays_non_finite(version)
            return


def _same(version: ModelVersion, numbers: Numbers) -> bool | None:
    """Whether each way gives what forwards of one row give; None where these fail, or take too long to try more."""
    generator, state = np.random.default_rng(0), version.initial_state
    for way in _WAYS:
        inputs = _rows(version, sum(way), generator, numbers)
        started = thread_time()
        try:
            alone = _run(version, inputs, state, (1,) * sum(way))
        except ModelFailedError:
            return None
        if thread_time() - started > _SLOW * sum(way):
            return None
        try:
            with _Unconditional():  # type: ignore[no-untyped-call]
                together = _run(version, inputs, state, way)
        except ModelFailedError:
            return False
        differs = difference(version, alone, together) is not None
        if differs or alone.non_finite is not None or split(version.outputs, together.outputs, way) is None:
            return False
        state = together.state
    return True


def _run(version: ModelVersion, inputs: Mapping[str, Array], state: bytes, way: Sequence[int]) -> Result:
    """Run consecutive forwards of so many rows, and return their outputs together, and the last state.

    Raises:
        ModelFailedError: a forward failed, or their outputs do not fit together.

    """
    results: list[Result] = []
    for inputs_of_one in split(version.inputs, inputs, way) or ():
        results.append(version.run([Call(inputs_of_one, state)])[0])
        state = results[-1].state
    outputs = [result.outputs for result in results]
    try:
        joined = {spec.name: _concatenated(spec, outputs) for spec in version.outputs}
    except ValueError as error:
        raise ModelFailedError("the outputs of different rows have different shapes") from error
    return Result(joined, state, next((result.non_finite for result in results if result.non_finite), None))


def _rows(version: ModelVersion, count: int, generator: np.random.Generator, numbers: Numbers) -> dict[str, Array]:
    """Return inputs of so many rows."""
    shapes = [list(spec.example_shape) for spec in version.inputs]
    for spec, shape in zip(version.inputs, shapes, strict=True):
        shape[spec.instance_axis or 0] = count
    return example_inputs(version.inputs, shapes, generator, numbers)


def _of_all_magnitudes(numbers: Numbers) -> Numbers:
    """Return the same numbers, but with floats up to 100 times as large, or as small."""

    def scaled(generator: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
        found = numbers(generator, kind, shape)
        return found * 10 ** generator.uniform(-2, 2, shape) if kind == "float" else found

    return scaled


class _Unconditional(DispatchMode):  # type: ignore[no-untyped-call]
    """Ends a forward that reads a value, which may decide how it goes on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, (bool, int, float, complex)) or torch.Tag.dynamic_output_shape in func.tags:
            raise ModelFailedError(f"forward depends on values: {func}")
        return result


def _stays_non_finite(version: ModelVersion) -> bool:
    """Whether a state that extreme numbers have made NaN or infinite is so after ordinary ones, too."""
    generator = np.random.default_rng(0)
    for inputs in _extremes(version, generator):
        try:
            result = version.run([Call(inputs, version.initial_state)])[0]
            for _ in range(0 if result.non_finite is None else _ROWS_AFTER):
                result = version.run([Call(_rows(version, 1, generator, NUMBERS[0]), result.state)])[0]
                if version.layout.non_finite(version.initial_state, result.state) is None:
                    return False
        except ModelFailedError:
            continue  # what fails on such a state is not committed either
    return True


def _extremes(version: ModelVersion, generator: np.random.Generator) -> Iterator[dict[str, Array]]:
    """Yield rows of numbers near the largest of their datatype, or near its square root, of different signs."""
    for power, signs in product((1.0, 0.5), ((1,), (-1,), (-1, 1), (-1, 1), (-1, 0, 1))):
        inputs = _rows(version, 1, generator, NUMBERS[0])
        for spec in version.inputs:
            if spec.datatype.kind == "float":
                drawn = generator.choice(np.array(signs), inputs[spec.name].shape)
                large = (0.9 * float(np.finfo(spec.datatype.numpy).max)) ** power  # type: ignore[type-var]
                inputs[spec.name] = (drawn * large).astype(spec.datatype.numpy)
        yield inputs
