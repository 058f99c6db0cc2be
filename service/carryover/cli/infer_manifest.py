"""A first manifest, inferred from a module by running it: its inputs, outputs, state and how to batch it."""

import inspect
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, product, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carryover.cli.input_guesses import Guess, floating, guesses, likely
from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime.datatypes import Array, Datatype, of_tensor
from carryover.runtime.discovery import Outcome, dry_run
from carryover.runtime.forward import Forward
from carryover.runtime.manifest import Manifest, TensorSpec
from carryover.runtime.selfcheck import close, example_inputs, prove_batching, state_difference
from carryover.runtime.version import Call, ModelVersion, Result

_SECONDS = 30.0
"""How long inputs are looked for."""
_ENOUGH = 12
"""Inputs that forward takes and that are compared before the best of them is chosen."""
_ROWS = 3
"""Steps, or sessions, that are compared with as many forwards of one."""
_MOST = 1000
"""Ways to choose axes that are looked at."""
_DTYPES = {datatype.torch for datatype in Datatype}

Axes = Mapping[str, int]
"""An axis of some inputs, outputs or buffers, by name."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a manifest says of a module's tensors, and why.

    `document` has `inputs`, `outputs` and `state`. Each `why` is a sentence; those of the inputs are by name. `labels`
    is how many of them a classifier would have; None where the output is not probabilities.
    """

    document: dict[str, Any]
    why_inputs: dict[str, str]
    why_state: list[str]
    why_batching: str
    labels: int | None

    @property
    def notes(self) -> list[str]:
        """Every reason, as a sentence."""
        return [*(f"{name}: {why}" for name, why in self.why_inputs.items()), *self.why_state, self.why_batching]


@dataclass(frozen=True, slots=True)
class _Batching:
    """Along which axis of each input, output and state buffer sessions are batched."""

    inputs: Axes
    outputs: Axes
    state: Axes


@dataclass(frozen=True, slots=True)
class _Varying:
    """The axes of each input and output that get -1."""

    inputs: Mapping[str, frozenset[int]]
    outputs: Mapping[str, frozenset[int]]


def infer(module: nn.Module, given: Mapping[str, TensorSpec]) -> Draft:
    """Infer inputs, outputs and state of a module.

    `given` are the inputs that need no guessing, by name.

    Raises:
        ConfigurationError: no inputs were found that forward takes; the sentence says what to pass.

    """
    names = _names(module, given)
    held = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    forward = Forward(module, names, lambda: held)
    end, best, seen, tried, failure = time.monotonic() + _SECONDS, None, set[object](), 0, ""
    for choice in _choices(module, names, given):
        if time.monotonic() > end or len(seen) >= _ENOUGH:
            break
        family = tuple(one.family for one in choice.values())
        if family in seen:
            continue
        tried += 1
        try:
            attempt = _Attempt(forward, choice, given)
        except ModelFailedError as error:
            failure = failure or str(error)
            continue
        seen.add(family)
        if best is None or attempt.score > best.score:
            best = attempt
        if best.perfect:
            break
    if best is None:
        open_ = " ".join(f"--input {name}:FP32:-1,8" for name in names if name not in given)
        raise ConfigurationError(
            f"no input was found for {', '.join(names)} that forward takes, in {tried} tries; the first failed "
            f"with: {failure}; say what it takes, as in {open_}"
            if open_
            else f"forward does not take zeros of the shapes given with --input: {failure}"
        )
    best = best.in_floats()
    best.check_sizes()
    return best.draft()


class _Attempt:
    """Inputs that forward takes, and what it makes of them.

    Raises:
        ModelFailedError: it does not take them.

    """

    def __init__(self, forward: Forward, choice: Mapping[str, Guess], given: Mapping[str, TensorSpec]) -> None:
        self._forward = forward
        self._choice = choice
        self._given = given
        self._zeros = _dry_run(forward, choice, torch.zeros)
        self._random = _dry_run(forward, choice, _random)
        changes = dict(self._random.changes)
        with suppress(ModelFailedError):  # forward need not take ones, as indices of a short table
            changes |= _dry_run(forward, choice, torch.ones).changes
        self._changes = changes | self._zeros.changes
        self._outputs = _named(self._zeros.returned)
        if not self._outputs:
            raise ModelFailedError(f"forward returned {type(self._zeros.returned).__name__}, which names no tensors")
        self._registered = {slot.name: slot.registered for slot in forward.slots()}
        self._state = [name for name in self._registered if name in self._changes]
        self._varying = _Varying(dict.fromkeys(choice, frozenset()), dict.fromkeys(self._outputs, frozenset()))
        self._batching: _Batching | None = None
        self._version = self._load(self._varying, None)
        self._time = next(filter(self._rows_are_steps, self._assignments({}, every=False)), {}) if self._state else {}
        self._vary(self._time)
        self._batching = next(self._batchings(), None)

    @property
    def score(self) -> tuple[int, ...]:
        """What speaks for these inputs, the weightiest first: the more, the better."""
        keeps_shape = all(
            (before := self._registered[name]) is None
            or ((after := self._random.state[name]) is not None and after.shape == before.shape)
            for name in self._state
        )
        fitting = [one.datatype.kind == "float" or likely(name) for name, one in self._choice.items()]
        axes = set(self._batching.inputs.values()) if self._batching else set()
        return keeps_shape, sum(map(bool, fitting)), bool(self._time) or not self._state, bool(axes), len(axes) == 1

    @property
    def perfect(self) -> bool:
        """Whether nothing could score higher."""
        return self.score == (True, len(self._choice), True, True, True)

    def in_floats(self) -> "_Attempt":
        """Return the same, with floating inputs where whole numbers are not called for."""
        best = self
        for name, one in self._choice.items():
            if name not in self._given and one.datatype.kind != "float" and likely(name) is None:
                as_float = replace(one, datatype=floating(self._forward.module))
                with suppress(ModelFailedError):
                    other = _Attempt(self._forward, {**best._choice, name: as_float}, self._given)
                    best = max(other, best, key=lambda attempt: attempt.score)
        return best

    def check_sizes(self) -> None:
        """Refuse to choose a size where forward takes several, but not 1.

        Raises:
            ConfigurationError: with the axis.

        """
        for name, one in self._choice.items():
            for axis, larger in one.larger():
                try:
                    _dry_run(self._forward, {**self._choice, name: larger}, torch.zeros)
                except ModelFailedError:
                    continue
                instances = self._batching.inputs[name] if self._batching and not self._state else None
                shape = ",".join(
                    "SIZE" if number in one.sizes else "-1" if number == instances else str(size)
                    for number, size in enumerate(one.shape)
                )
                raise ConfigurationError(
                    f"forward takes more than one size along axis {axis} of {name!r} ({one.shape[axis]} and "
                    f"{larger.shape[axis]}), but not 1: say which, as in --input {name}:{one.datatype.name}:{shape}"
                )

    def draft(self) -> Draft:
        """Return what was found, as a manifest says it."""
        if not self._state:
            batch = self._batching.inputs if self._batching else {}
            self._vary(batch)
            for axes in self._assignments(batch, every=False):
                self._vary(axes)
        for name, spec in self._given.items():
            for axis in {axis for axis, size in enumerate(spec.shape) if size == -1}:
                self._vary({name: axis})
        if not self._state and self._batching and not self._given:
            self._narrow(self._batching)
        return Draft(
            self._document(self._varying, self._batching),
            {name: self._why(name) for name in self._choice},
            self._why_state(),
            self._why_batching(),
            _probabilities(_named(self._random.returned)),
        )

    def _document(self, varying: _Varying, batching: _Batching | None) -> dict[str, Any]:
        """The manifest's inputs, outputs and state."""
        given = {name: Guess(spec.datatype, spec.shape) for name, spec in self._given.items()}
        inputs = {**self._choice, **given}
        outputs = {name: Guess(of_tensor(x), tuple(x.shape)) for name, x in self._outputs.items()}
        batching = batching or _Batching({}, {}, {})
        named = [name for name in self._state if name in batching.state or name not in self._zeros.changes]
        return {
            "inputs": [_spec(name, one, varying.inputs[name], batching.inputs) for name, one in inputs.items()],
            "outputs": [_spec(name, one, varying.outputs[name], batching.outputs) for name, one in outputs.items()],
            **({"state": {name: _batch_dim(name, batching.state) for name in named}} if named else {}),
        }

    def _load(self, varying: _Varying, batching: _Batching | None) -> ModelVersion:
        manifest = Manifest.model_validate(self._document(varying, batching))
        return ModelVersion("new", "1", manifest, self._forward, self._state)

    def _run(self, inputs: Mapping[str, Array], state: bytes | None = None) -> Result:
        return self._version.run([Call(inputs, self._version.initial_state if state is None else state)])[0]

    def _inputs(self, axes: Axes, size: int) -> dict[str, Array]:
        """Random inputs with another size of some axes."""
        shapes = [_resized(self._choice[spec.name].shape, axes.get(spec.name), size) for spec in self._version.inputs]
        return example_inputs(self._version.inputs, shapes, np.random.default_rng(0))

    def _assignments(self, taken: Axes, *, every: bool) -> Iterator[Axes]:
        """Yield ways to choose an axis of size 1 of each input, or of some unless `every`; equal axes come first."""
        choices = [
            [
                *(axis for axis, size in enumerate(one.shape) if size == 1 and axis != taken.get(name)),
                *([] if every else [None]),
            ]
            for name, one in self._choice.items()
        ]
        for way in _in_order(choices):
            if axes := {name: axis for name, axis in zip(self._choice, way, strict=True) if axis is not None}:
                yield axes

    def _rows_are_steps(self, axes: Axes) -> bool:
        """Whether one call of several rows gives what as many calls of one row give."""
        inputs, state, steps = self._inputs(axes, _ROWS), self._version.initial_state, list[Result]()
        try:
            whole = self._run(inputs)
            for row in range(_ROWS):
                one = {n: x.take([row], axes[n]) if n in axes else x for n, x in inputs.items()}
                steps.append(self._run(one, state))
                state = steps[-1].state
        except ModelFailedError:
            return False
        return state_difference(self._version, whole.state, state) is None and all(
            _rows(whole.outputs[spec.name], [step.outputs[spec.name] for step in steps], spec.datatype)
            for spec in self._version.outputs
        )

    def _vary(self, axes: Axes) -> None:
        """Let axes of the inputs vary, and those of the outputs that follow, if forward and batching allow it."""
        for name, axis in axes.items():
            given = self._given.get(name)
            if axis in self._varying.inputs[name] or (given is not None and given.shape[axis] != -1):
                return
        try:
            results = [self._run(self._inputs(axes, size)).outputs for size in range(1, _ROWS + 1)]
        except ModelFailedError:
            return
        shapes = {name: [result[name].shape for result in results] for name in self._outputs}
        varying = _Varying(
            {name: held | {axes[name]} if name in axes else held for name, held in self._varying.inputs.items()},
            {
                name: held | {axis for axis, sizes in enumerate(zip(*shapes[name], strict=True)) if len(set(sizes)) > 1}
                for name, held in self._varying.outputs.items()
            },
        )
        if self._batching is None or self._holds(varying, self._batching):
            self._varying = varying

    def _batchings(self) -> Iterator[_Batching]:
        """Yield the ways in which sessions in one batch get what each gets alone."""
        for axes in self._assignments(self._time, every=True):
            for dims in self._state_dims():
                outputs = self._batched_outputs(axes, dims)
                if outputs is not None and self._holds(self._varying, batching := _Batching(axes, outputs, dims)):
                    yield batching

    def _state_dims(self) -> Iterator[Axes]:
        """Yield ways to choose an axis of size 1 of each state buffer."""
        shapes = {name: () if (x := self._random.state[name]) is None else tuple(x.shape) for name in self._state}
        # Buffers of one shape, such as the caches of many layers, have the same axis.
        axes = {shape: [axis for axis, size in enumerate(shape) if size == 1] for shape in shapes.values()}
        for way in _in_order(axes.values()):
            chosen = dict(zip(axes, way, strict=True))
            yield {name: axis for name, shape in shapes.items() if (axis := chosen[shape]) is not None}

    def _batched_outputs(self, axes: Axes, dims: Axes) -> Axes | None:
        """The axis of each output along which a batch lies; None where forward takes no batch or gives none."""
        wide = {name: replace(one, shape=_resized(one.shape, axes[name], _ROWS)) for name, one in self._choice.items()}
        state = {
            name: torch.cat([x] * _ROWS, dims[name]) if (x := self._random.state[name]) is not None else None
            for name in self._state
        }
        try:
            outputs = _named(_dry_run(self._forward, wide, torch.zeros, state).returned)
        except ModelFailedError:
            return None
        found = {}
        for name, one in self._outputs.items():
            batch = outputs[name].shape if name in outputs else ()
            fitting = [
                axis for axis, size in enumerate(one.shape) if size == 1 and batch == _resized(one.shape, axis, _ROWS)
            ]
            if not fitting:
                return None
            found[name] = fitting[0]
        return found

    def _holds(self, varying: _Varying, batching: _Batching) -> bool:
        """Whether the service's own check of `batch_dim` passes."""
        try:
            prove_batching(self._load(varying, batching))
        except ModelFailedError:
            return False
        return True

    def _narrow(self, batching: _Batching) -> None:
        """Instances lie along the first axis that varies; where that is not the batch axis, this one stays 1."""
        inputs, outputs = self._varying.inputs, self._varying.outputs
        if any(axis != min(inputs[name] | {axis}) for name, axis in batching.inputs.items()):
            self._varying = _Varying(
                {name: inputs[name] - {axis} for name, axis in batching.inputs.items()},
                {name: outputs[name] - {axis} for name, axis in batching.outputs.items()},
            )

    def _why(self, name: str) -> str:
        if name in self._given:
            return "as given with --input"
        if name in self._time:
            axis = self._time[name]
            return f"found by trying; axis {axis} holds steps: several in one call gave what they gave one by one"
        if self._state:
            return "found by trying; one call is one step: no axis was found along which several steps can lie"
        return "found by trying" + ("; -1 where forward takes any size" if self._varying.inputs[name] else "")

    def _why_state(self) -> list[str]:
        frozen = [name for name in self._registered if name not in self._state]
        unseen = ", though not on zeros, so that it must be named here"
        return [
            *(
                f"state {name}: {self._changes[name].value}{'' if name in self._zeros.changes else unseen}"
                for name in self._state
            ),
            *([f"frozen: {', '.join(frozen)}"] if frozen else []),
        ]

    def _why_batching(self) -> str:
        who = "sessions" if self._state else "requests"
        if self._batching:
            return f"batch_dim: {who} in one batch gave what each gave alone"
        return f"no batch_dim: no axis was found along which {who} in one batch give what each gives alone"


def _dry_run(
    forward: Forward,
    choice: Mapping[str, Guess],
    fill: Callable[..., Tensor],
    state: Mapping[str, Tensor | None] | None = None,
) -> Outcome:
    return dry_run(forward, {name: fill(one.shape, dtype=one.datatype.torch) for name, one in choice.items()}, state)


def _random(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Random numbers; whole ones from 0 and 1."""
    random = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=random).to(dtype)
    return torch.randint(0, 2, shape, generator=random).to(dtype)


def _names(module: nn.Module, given: Mapping[str, TensorSpec]) -> list[str]:
    """The inputs that forward cannot do without, and others that are given."""
    parameters: Iterable[inspect.Parameter] = ()
    with suppress(TypeError, ValueError):
        parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        parameters = ()
        if not given:
            raise ConfigurationError(
                "forward's signature does not name its inputs: pass each, as in --input rows:FP32:-1,8"
            )
    names = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if not names and not given:
        raise ConfigurationError("forward takes no input; a model takes at least one tensor")
    return list(dict.fromkeys((*names, *given)))


def _choices(module: nn.Module, names: Sequence[str], given: Mapping[str, TensorSpec]) -> Iterator[dict[str, Guess]]:
    """Every combination of guesses, the likeliest first."""
    lists = [
        [Guess(given[name].datatype, given[name].example_shape)] if name in given else guesses(module, name)
        for name in names
    ]
    for total in range(sum(map(len, lists))):
        for way in _ways(lists, total):
            yield dict(zip(names, way, strict=True))


def _ways(lists: Sequence[Sequence[Guess]], total: int) -> Iterator[tuple[Guess, ...]]:
    """One of each list, their places in the lists adding up to `total`."""
    first, *rest = lists
    if not rest:
        yield from ((guess,) for guess in first[total : total + 1])
        return
    for place in range(min(total + 1, len(first))):
        yield from ((first[place], *others) for others in _ways(rest, total - place))


def _in_order(choices: Iterable[Sequence[int | None]]) -> list[tuple[int | None, ...]]:
    """The ways to choose an axis of each, the more and the more equal the sooner."""

    def inequality(way: tuple[int | None, ...]) -> tuple[int, int, tuple[int, ...]]:
        chosen = tuple(axis for axis in way if axis is not None)
        return -len(chosen), len(set(chosen)), chosen

    return sorted(islice(product(*choices), _MOST), key=inequality)


def _resized(shape: Sequence[int], axis: int | None, size: int) -> tuple[int, ...]:
    return tuple(size if number == axis else given for number, given in enumerate(shape))


def _rows(whole: Array, parts: Sequence[Array], datatype: Datatype) -> bool:
    """Whether an output is its steps' outputs one after the other, or the last of them."""
    return close(whole, parts[-1], datatype) or any(
        whole.shape == _resized(parts[0].shape, axis, _ROWS) and close(whole, np.concatenate(parts, axis), datatype)
        for axis, size in enumerate(parts[0].shape)
        if size == 1
    )


def _named(returned: Any) -> dict[str, Tensor]:
    """The tensors that a forward returned and a manifest can name, by the names they have or get."""
    named: Mapping[Any, Any] = {}
    if isinstance(returned, Tensor):
        named = {"output": returned}
    elif isinstance(returned, Mapping):
        named = returned
    elif isinstance(returned, tuple) and hasattr(returned, "_fields"):
        named = dict(zip(returned._fields, returned, strict=True))
    elif isinstance(returned, (tuple, list)):
        # A manifest names what a tuple starts with: (output, (h, c)) has one output.
        leading = list(takewhile(_is_output, returned))
        named = {"output" if len(leading) == 1 else f"output_{i}": value for i, value in enumerate(leading)}
    return {key: value for key, value in named.items() if isinstance(key, str) and _is_output(value)}


def _is_output(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in _DTYPES


def _probabilities(returned: Mapping[str, Tensor]) -> int | None:
    """How many probabilities the only output gives."""
    output, *others = returned.values()
    if others or not output.is_floating_point() or not output.ndim or bool((output < 0).any()):
        return None
    sums = output.float().sum(-1)
    return output.shape[-1] if torch.allclose(sums, torch.ones_like(sums), atol=1e-2) else None


def _spec(name: str, one: Guess, varying: Collection[int], batch: Axes) -> dict[str, Any]:
    shape = [-1 if axis in varying else size for axis, size in enumerate(one.shape)]
    return {"name": name, "datatype": one.datatype.name, "shape": shape} | _batch_dim(name, batch)


def _batch_dim(name: str, batch: Axes) -> dict[str, int]:
    return {"batch_dim": batch[name]} if name in batch else {}
