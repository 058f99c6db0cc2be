"""What a module's axes mean, found by running it: which hold steps of time, which sessions, and which just vary."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product

import torch
from torch import Tensor

from carryover.cli.trial import Outcome, State, Trial, close, example, outputs
from carryover.errors import ModelFailedError
from carryover.runtime.datatypes import Datatype

ROWS = 3
"""Steps, or sessions, that are compared with as many forwards of one."""
_MOST = 1000
"""Ways to choose axes that are looked at."""

Axes = Mapping[str, int | None]
"""An axis of each input; None where the input has none."""


@dataclass(frozen=True, slots=True)
class Example:
    """An input by datatype and shape; axes of size 1 are those that may mean something."""

    datatype: Datatype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batching:
    """Along which axis of each input, output and state buffer sessions lie side by side."""

    inputs: dict[str, int]
    outputs: dict[str, int]
    state: dict[str, int]


class Axis:
    """Experiments on a module's axes, all with the same random numbers."""

    def __init__(self, trial: Trial, examples: Mapping[str, Example], state: Sequence[str]) -> None:
        self._trial = trial
        self._examples = examples
        self._state = state

    def assignments(self, taken: Mapping[str, Sequence[int]], *, every: bool) -> Iterator[Axes]:
        """Yield ways to choose an axis of size 1 of each input, or of some unless `every`; equal axes come first."""
        open_ = {
            name: [axis for axis, size in enumerate(given.shape) if size == 1 and axis not in taken.get(name, ())]
            for name, given in self._examples.items()
        }
        choices = [[*axes] if every else [*axes, None] for axes in open_.values()]
        ways = [dict(zip(open_, way, strict=True)) for way in islice(product(*choices), _MOST)]
        ways = [way for way in ways if any(axis is not None for axis in way.values())]
        return iter(sorted(ways, key=_inequality))

    def time(self) -> Axes | None:
        """Return the axes along which rows are steps: one call of several gives what as many calls of one give."""
        return next((axes for axes in self.assignments({}, every=False) if self._rows_are_steps(axes)), None)

    def batching(self, time: Axes) -> Iterator[Batching]:
        """Yield the ways in which sessions side by side get what each gets alone, in one step and in two of `time`."""
        taken = {name: [axis] for name, axis in time.items() if axis is not None}
        for axes in self.assignments(taken, every=True):
            for dims in self._state_dims():
                columns = {name: axis for name, axis in axes.items() if axis is not None}
                found = self._side_by_side(columns, dims, time, 1)
                if found is not None and (not time or self._side_by_side(columns, dims, time, 2) == found):
                    yield Batching(columns, found, dims)

    def holds(self, batching: Batching, axes: Axes) -> bool:
        """Whether requests side by side get what each gets alone also where they are longer along other axes."""
        return self._side_by_side(batching.inputs, batching.state, axes, 2) == batching.outputs

    def varying(self, axes: Axes) -> dict[str, tuple[int, ...]] | None:
        """Return the axes of each output whose size follows these axes of the inputs; None where those cannot vary."""
        try:
            one, other, more = (outputs(self._run(self._inputs(0, axes, size)).returned) for size in (1, 2, ROWS))
        except ModelFailedError:
            return None
        shapes = {name: (tuple(one[name].shape), other.get(name), more.get(name)) for name in one}
        found = {}
        for name, (shape, two, three) in shapes.items():
            if two is None or three is None or not two.ndim == three.ndim == len(shape):
                return None
            found[name] = tuple(i for i, size in enumerate(shape) if len({size, two.shape[i], three.shape[i]}) > 1)
        return found

    def _rows_are_steps(self, axes: Axes) -> bool:
        inputs = self._inputs(0, axes, ROWS)
        try:
            together = self._run(inputs)
            state: State | None = None
            steps: list[Outcome] = []
            for row in range(ROWS):
                steps.append(self._run({name: _row(x, axes[name], row) for name, x in inputs.items()}, state))
                state = steps[-1].state
        except ModelFailedError:
            return False
        parts = [outputs(step.returned) for step in steps]
        return all(close(together.state[name], steps[-1].state[name]) for name in self._state) and all(
            _in_order(whole, [part[name] for part in parts if name in part])
            for name, whole in outputs(together.returned).items()
        )

    def _state_dims(self) -> Iterator[dict[str, int]]:
        """Ways to choose an axis of size 1 of each state buffer."""
        after = self._run(self._inputs(0)).state
        shapes = {name: () if (held := after[name]) is None else tuple(held.shape) for name in self._state}
        # Buffers of one shape, such as the caches of many layers, have the same axis.
        axes = {shape: [axis for axis, size in enumerate(shape) if size == 1] for shape in shapes.values()}
        ways = [dict(zip(axes, way, strict=True)) for way in islice(product(*axes.values()), _MOST)]
        return iter(sorted(({name: way[shape] for name, shape in shapes.items()} for way in ways), key=_inequality))

    def _side_by_side(
        self, axes: Mapping[str, int], dims: Mapping[str, int], along: Axes, size: int
    ) -> dict[str, int] | None:
        """The axis of each output in which sessions lie; None where they do not get what each gets alone."""
        try:
            alone, together = self._ways(axes, dims, along, size)
        except (ModelFailedError, RuntimeError):
            return None
        for name, dim in dims.items():
            whole = together.state[name]
            if whole is None or not _alike(whole, [one.state[name] for one in alone], dim):
                return None
        found: dict[str, int] = {}
        singles = [outputs(one.returned) for one in alone]
        for name, whole in outputs(together.returned).items():
            parts = [single.get(name) for single in singles]
            axis = next((axis for axis in range(whole.ndim) if _alike(whole, parts, axis)), None)
            if axis is None:
                return None
            found[name] = axis
        return found

    def _ways(
        self, axes: Mapping[str, int], dims: Mapping[str, int], along: Axes, size: int
    ) -> tuple[list[Outcome], Outcome]:
        """What sessions that have come different ways get alone, and side by side."""
        sessions = [self._session(steps, seed) for seed, steps in enumerate(range(ROWS))]
        if self._state and any(
            (x is None, x is not None and x.shape) != (y is None, y is not None and y.shape)
            for session in sessions
            for x, y in zip(session.values(), sessions[0].values(), strict=True)
        ):
            sessions = [self._session(2, seed) for seed in range(ROWS)]
        calls = [self._inputs(ROWS + number, along, size) for number in range(ROWS)]
        alone = [self._run(call, state) for call, state in zip(calls, sessions, strict=True)]
        state = dict(sessions[0])
        for name, dim in dims.items():
            held = [x for session in sessions if (x := session[name]) is not None]
            state[name] = torch.cat(held, dim) if held else None
        joined = {name: torch.cat([call[name] for call in calls], axis) for name, axis in axes.items()}
        return alone, self._run(joined, state)

    def _session(self, steps: int, seed: int) -> dict[str, Tensor | None]:
        state: dict[str, Tensor | None] = self._trial.initial()
        for step in range(steps):
            state = self._run(self._inputs(100 * (seed + 1) + step), state).state
        return state

    def _inputs(self, seed: int, axes: Axes | None = None, size: int = 1) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(seed)
        return {
            name: example(given.datatype, resized(given.shape, (axes or {}).get(name), size), random)
            for name, given in self._examples.items()
        }

    def _run(self, inputs: Mapping[str, Tensor], state: State | None = None) -> Outcome:
        return self._trial.run(inputs, state)


def resized(shape: Sequence[int], axis: int | None, size: int) -> tuple[int, ...]:
    """Return a shape with another size of one axis."""
    return tuple(size if number == axis else given for number, given in enumerate(shape))


def _row(x: Tensor, axis: int | None, row: int) -> Tensor:
    return x if axis is None else x.narrow(axis, row, 1)


def _in_order(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether an output is its steps' outputs one after the other, or the last of them."""
    if len(parts) != ROWS:
        return False
    return close(whole, parts[-1]) or any(_alike(whole, parts, axis) for axis in range(whole.ndim))


def _alike(whole: Tensor, parts: Sequence[Tensor | None], axis: int) -> bool:
    """Whether `whole` is the parts, each of size 1 along `axis`, side by side."""
    sizes = resized(whole.shape, axis, 1)
    given = [part for part in parts if part is not None and tuple(part.shape) == sizes]
    return len(given) == len(parts) and close(whole, torch.cat(given, axis))


def _inequality(way: Mapping[str, int | None]) -> tuple[int, int, tuple[int, ...]]:
    chosen = [axis for axis in way.values() if axis is not None]
    return len(way) - len(chosen), len(set(chosen)), tuple(chosen)
