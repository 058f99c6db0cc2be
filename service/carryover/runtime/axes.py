"""What the axes of a version mean, found by running it: which hold steps, which hold requests, and which just vary."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from itertools import islice, product

import numpy as np
import torch
from torch import Tensor

from carryover.errors import ModelFailedError
from carryover.runtime.datatypes import Array, Datatype, of_tensor
from carryover.runtime.discovery import dry_run, learn_structures
from carryover.runtime.forward import Forward, match_outputs, name_outputs, zeros
from carryover.runtime.input_guesses import scalar
from carryover.runtime.manifest import Manifest, StateSpec, TensorSpec
from carryover.runtime.randomness import mean_random
from carryover.runtime.selfcheck import (
    NUMBERS,
    close,
    example_inputs,
    prove_batching,
    settle_gradients,
    state_difference,
)
from carryover.runtime.state_guesses import (
    doubt,
    draws_numbers,
    example,
    find_arguments,
    find_attributes,
    find_call,
    find_initialised,
    find_required,
    restored,
)
from carryover.runtime.state_sources import entries
from carryover.runtime.version import Call, ModelVersion, Result

Axes = Mapping[str, int]
"""An axis of some inputs, outputs or buffers, by name."""
_ROWS = 3
"""Steps, or sessions, that are compared with as many forwards of one."""
_SIZES = 8
"""Sizes of a module that are tried in the place of 1."""
_MOST = 1000
"""The most ways to choose axes that are tried."""


def broadcast(forward: Forward, inputs: Sequence[TensorSpec], given: Collection[str]) -> bool:
    """Whether an axis has size 1 only because that is broadcast to a size of the module's: 2 does not fit there.

    `given` are the inputs of which the sizes are known.
    """
    tensors = [*forward.module.parameters(), *forward.module.buffers()]
    sizes = sorted({size for tensor in tensors for size in tensor.shape if size > 2})[:_SIZES]  # noqa: PLR2004

    def takes(spec: TensorSpec, axis: int, size: int) -> bool:
        with suppress(ModelFailedError):
            dry_run(forward, zeros([with_sizes(one, {axis}, size) if one is spec else one for one in inputs]))
            return True
        return False

    return any(
        size == 1 and not takes(spec, axis, 2) and any(takes(spec, axis, other) for other in sizes)
        for spec in inputs
        if spec.name not in given and not scalar(spec.name)
        for axis, size in enumerate(spec.shape)
    )


class Experiment:
    """A module on example inputs: which buffers it changes, and what the axes of its inputs mean.

    `given` names the inputs whose shapes are final, with -1 for the axes that vary, `known` is state that need not be
    found. `zeros` are the changes on zeros, `changes` those on any numbers, `state` the names of the state buffers,
    `time` the axes that hold steps. `broadcast` says that they fit by accident.

    Raises:
        ModelFailedError: forward does not take the inputs.

    """

    def __init__(
        self,
        forward: Forward,
        inputs: Sequence[TensorSpec],
        given: Collection[str],
        known: Mapping[str, StateSpec] | None = None,
    ) -> None:
        forward = copy(forward)
        forward.entries = ()
        if draws_numbers(forward, example(inputs)):
            forward.context = mean_random
        with restored(forward):
            self.found = (
                dict(known or {})
                or find_required(forward, inputs, given)
                or find_initialised(forward, inputs)
                or find_arguments(forward, inputs)
            )
            required = {spec.input for spec in self.found.values() if spec.initial == "zeros"}
            if required:
                inputs = [spec for spec in inputs if spec.name not in required]
                forward = forward.taking([spec.name for spec in inputs])
            if not self.found:
                forward, self.found = find_call(forward, inputs)
        forward.entries = entries(self.found, forward.module, forward.method)
        self.found |= find_attributes(forward, inputs)
        self.forward = forward
        forward.entries = entries(self.found, forward.module, forward.method)
        learn_structures(forward, inputs)
        self.zeros = dry_run(forward, zeros(inputs)).changes
        self.outcome = dry_run(forward, example(inputs))
        self.changes = self.outcome.changes | self.zeros
        with suppress(ModelFailedError):  # forward need not take ones, as indices of a short table
            ones = {name: torch.ones_like(given) for name, given in zeros(inputs).items()}
            self.changes = dry_run(forward, ones).changes | self.changes
        self.buffers = [slot.name for slot in forward.slots() if slot.name in self.changes]
        self.state = [*self.buffers, *(leaf.name for leaf in forward.leaves())]
        named = self.outputs()
        if not named:
            raise ModelFailedError(f"forward returned {type(self.outcome.returned).__name__}, which names no tensors")
        outputs = [
            TensorSpec(name=name, datatype=of_tensor(tensor), shape=tuple(tensor.shape), result=path)
            for name, (tensor, path) in named.items()
        ]
        manifest = Manifest(inputs=tuple(inputs), outputs=tuple(outputs), state=self.found)
        self.version = ModelVersion("new", "1", manifest, forward, self.buffers)
        settle_gradients(self.version)
        self.time: Axes = {}
        self._given = {spec.name: spec for spec in inputs if spec.name in given}
        self._varied = set[tuple[str, int]]()
        if self.state:
            ways = assignments(self.version, {}, every=False)
            self.time = next((axes for axes in ways if rows_are_steps(self.version, axes)), {})
            self._vary(self.time)
        self.version = batched(self.version, self.time) or self.version
        self.broadcast = broadcast(forward, inputs, given)

    @property
    def batch(self) -> Axes:
        """The batch axis of each input; nothing where there is none."""
        return {s.name: s.batch_dim for s in self.version.manifest.inputs if s.batch_dim is not None}

    def outputs(self) -> dict[str, tuple[Tensor, str | None]]:
        """Return the tensors that forward returned beside its state, as `name_outputs` does."""
        return name_outputs(self.outcome.returned, [str(spec.output) for spec in self.found.values()])

    def doubt(self) -> str | None:
        """Return a sentence where nothing tells which results are passed to which parameters."""
        return doubt(self.forward, self.version.manifest.inputs, self.found)

    def keeps_shape(self) -> bool:
        """Return whether every state buffer has the shape that it is registered with after a step."""
        after = self.outcome.state
        return all(
            slot.registered is None or getattr(after[slot.name], "shape", None) == slot.registered.shape
            for slot in self.forward.slots()
            if slot.name in self.state
        )

    def probabilities(self) -> int | None:
        """Return how many probabilities the only output gives; None where it gives something else."""
        (output, _), *others = self.outputs().values()
        if others or not output.is_floating_point() or not output.ndim or bool((output < 0).any()):
            return None
        sums = output.float().sum(-1)
        return output.shape[-1] if torch.allclose(sums, torch.ones_like(sums), atol=1e-2) else None

    def manifest(self) -> Manifest:
        """Return the manifest, with -1 for every axis that can vary."""
        if not self.state:
            for axes in (self.batch, *assignments(self.version, self.batch, every=False)):
                self._vary(axes)
        for name, spec in self._given.items():
            for axis in (axis for axis, size in enumerate(spec.shape) if size == -1):
                self._vary({name: axis})
        found = self.version.manifest
        first = all(s.instance_axis is None or (s.batch_dim or 0) <= s.instance_axis for s in found.inputs)
        if self.state or not self.batch or self._given or first:
            return found
        # Instances lie along the first axis that varies; where that is not the batch axis, this one stays 1.
        inputs, outputs = (
            tuple(with_sizes(spec, {spec.batch_dim or 0}, 1) for spec in specs)
            for specs in (found.inputs, found.outputs)
        )
        return found.model_copy(update={"inputs": inputs, "outputs": outputs})

    def _vary(self, axes: Axes) -> None:
        """Give -1 to axes of the inputs, and those of the outputs that follow, if forward and batching allow it."""
        for name, axis in axes.items():
            if (name, axis) in self._varied or (name in self._given and self._given[name].shape[axis] != -1):
                return
        if axes and (found := varying(self.version, axes)) is not None:
            self.version = found
            self._varied |= axes.items()


def assignments(version: ModelVersion, taken: Axes, *, every: bool) -> Iterator[Axes]:
    """Yield ways to choose an axis of size 1 of each input, or of some unless `every`; equal axes come first."""
    choices: list[list[int | None]] = []
    for spec in version.inputs:
        axes = [axis for axis, size in enumerate(spec.example_shape) if size == 1 and axis != taken.get(spec.name)]
        choices.append([*axes] if every else [*axes, None])
    for way in _ways(choices):
        axes_of = {spec.name: axis for spec, axis in zip(version.inputs, way, strict=True) if axis is not None}
        if axes_of:
            yield axes_of


def rows_are_steps(version: ModelVersion, axes: Axes) -> bool:
    """Whether one call of several rows gives what as many calls of one row give."""
    state, steps, inputs = version.initial_state, list[Result](), _inputs(version, axes, _ROWS)
    try:
        whole = version.run([Call(inputs, state)])[0]
        for row in range(_ROWS):
            one = {name: x.take([row], axes[name]) if name in axes else x for name, x in inputs.items()}
            steps += version.run([Call(one, state)])
            state = steps[-1].state
    except ModelFailedError:
        return False
    return state_difference(version, whole.state, state) is None and all(
        _in_order(whole.outputs[spec.name], [step.outputs[spec.name] for step in steps], spec.datatype)
        for spec in version.outputs
    )


def varying(version: ModelVersion, axes: Axes) -> ModelVersion | None:
    """Return the version with -1 for axes of its inputs, and those of its outputs that follow.

    None where forward does not take several sizes, or requests can no longer be batched.
    """
    try:
        results = [
            version.run([Call(_inputs(version, axes, size), version.initial_state)])[0].outputs
            for size in range(1, _ROWS + 1)
        ]
    except ModelFailedError:
        return None
    follow = {
        name: {i for i, sizes in enumerate(zip(*(r[name].shape for r in results), strict=True)) if len(set(sizes)) > 1}
        for name in results[0]
    }
    found = version.refined(
        [with_sizes(spec, {axes[spec.name]} if spec.name in axes else (), -1) for spec in version.manifest.inputs],
        [with_sizes(spec, follow[spec.name], -1) for spec in version.manifest.outputs],
        version.manifest.state,
    )
    return found if _holds(found) else None


def batched(version: ModelVersion, taken: Axes) -> ModelVersion | None:
    """Return the version with a `batch_dim` for everything, along which each request gets what it gets alone."""
    try:
        one = version.run([Call(_inputs(version, {}, 1), version.initial_state)])[0]
    except ModelFailedError:
        return None
    for axes in assignments(version, taken, every=True):
        for dims in _state_dims(version, one.state):
            outputs = _batch_axes(version, axes, dims, one)
            if outputs is None:
                continue
            with suppress(ModelFailedError):  # a buffer that is empty at first has no such axis then
                found = version.refined(
                    [spec.changed(batch_dim=axes[spec.name]) for spec in version.manifest.inputs],
                    [spec.changed(batch_dim=outputs[spec.name]) for spec in version.manifest.outputs],
                    _state_specs(version, dims),
                )
                prove_batching(found)
                return found
    return None


def with_sizes(spec: TensorSpec, axes: Iterable[int], size: int) -> TensorSpec:
    """Return a spec with another size of some axes."""
    return spec.changed(shape=[size if axis in axes else given for axis, given in enumerate(spec.shape)])


def _state_specs(version: ModelVersion, dims: Mapping[str, int | None]) -> dict[str, StateSpec]:
    """The entries of `[state]` with an axis for each tensor; what has none is shared."""
    leaves = {leaf.name for leaf in version.forward.leaves()}
    found = {
        name: StateSpec(batch_dim=dim) if dim is not None else StateSpec(shared=True)
        for name, dim in dims.items()
        if name not in leaves
    }
    for entry in version.forward.entries:
        axes = {leaf.path: dim for leaf in entry.leaves if (dim := dims.get(leaf.name)) is not None}
        said: dict[str, object] = {"shared": True} if not axes else {"batch_dim": axes}
        if len(set(axes.values())) == 1:
            said = {"batch_dim": next(iter(axes.values()))}
        found[entry.name] = entry.spec.model_copy(update=said)
    return found


def _holds(version: ModelVersion) -> bool:
    try:
        prove_batching(version)
    except ModelFailedError:
        return False
    return True


def _state_dims(version: ModelVersion, state: bytes) -> Iterator[Mapping[str, int | None]]:
    """Ways to choose an axis of size 1 of each state buffer; a scalar has none, and is shared."""
    contents = zip(version.layout.buffers, version.layout.contents(state), strict=True)
    shapes = {buffer.name: held.shape if held else () for buffer, held in contents}
    # Buffers of one shape, such as the caches of many layers, have the same axis.
    axes = {shape: [axis for axis, size in enumerate(shape) if size == 1] for shape in shapes.values() if shape}
    for way in _ways(axes.values()):
        chosen = dict(zip(axes, way, strict=True))
        yield {name: chosen[shape] if shape else None for name, shape in shapes.items()}


def _batch_axes(version: ModelVersion, axes: Axes, dims: Mapping[str, int | None], one: Result) -> Axes | None:
    """The axis of each output along which a batch lies; None where forward takes no batch, or gives none."""
    held = zip(version.layout.buffers, version.layout.join([one.state]), strict=True)
    state = {b.name: x if x is None or (dim := dims[b.name]) is None else torch.cat([x] * _ROWS, dim) for b, x in held}
    drawn = _inputs(version, axes, _ROWS)
    inputs = {spec.name: torch.from_numpy(drawn[spec.name]).to(spec.datatype.torch) for spec in version.inputs}
    found: dict[str, int] = {}
    try:
        batch = match_outputs(version.outputs, dry_run(version.forward, inputs, state).returned)
    except ModelFailedError:
        return None
    for name, output in one.outputs.items():
        shape = tuple(getattr(batch[name], "shape", ()))
        fitting = [
            axis for axis, n in enumerate(output.shape) if n == 1 and shape == _resized(output.shape, axis, _ROWS)
        ]
        if not fitting:
            return None
        found[name] = fitting[0]
    return found


def _inputs(version: ModelVersion, axes: Axes, size: int) -> dict[str, Array]:
    """Random inputs with another size of some axes: any numbers or, where forward does not take them, none below 0."""
    shapes = [_resized(spec.example_shape, axes.get(spec.name), size) for spec in version.inputs]
    for numbers in NUMBERS[:-1]:
        inputs = example_inputs(version.inputs, shapes, np.random.default_rng(0), numbers)
        with suppress(ModelFailedError):
            version.run([Call(inputs, version.initial_state)])
            break
    return inputs


def _ways(choices: Iterable[Sequence[int | None]]) -> list[tuple[int | None, ...]]:
    """The ways to choose an axis of each, the more and the more equal the sooner."""

    def inequality(way: tuple[int | None, ...]) -> tuple[int, int, tuple[int, ...]]:
        chosen = tuple(axis for axis in way if axis is not None)
        return -len(chosen), len(set(chosen)), chosen

    return sorted(islice(product(*choices), _MOST), key=inequality)


def _resized(shape: Sequence[int], axis: int | None, size: int) -> tuple[int, ...]:
    return tuple(size if number == axis else given for number, given in enumerate(shape))


def _in_order(whole: Array, parts: Sequence[Array], datatype: Datatype) -> bool:
    """Whether an output is its steps' outputs one after the other, or the last of them."""
    return close(whole, parts[-1], datatype) or any(
        whole.shape == _resized(parts[0].shape, axis, _ROWS) and close(whole, np.concatenate(parts, axis), datatype)
        for axis, size in enumerate(parts[0].shape)
        if size == 1
    )
