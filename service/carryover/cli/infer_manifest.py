"""A first manifest, inferred from a module by running it: its inputs, outputs, state and how to batch it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from carryover.cli.input_guesses import Guess, floating, guesses, likely
from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime.axes import Axes, assignments, batched, rows_are_steps, varying, with_sizes
from carryover.runtime.datatypes import of_tensor
from carryover.runtime.discovery import Outcome, dry_run
from carryover.runtime.forward import Forward, name_outputs, required_inputs
from carryover.runtime.manifest import Manifest, TensorSpec
from carryover.runtime.version import ModelVersion

_SECONDS = 30.0
"""How long inputs are looked for."""
_ENOUGH = 12
"""Inputs that forward takes and that are compared before the best of them is chosen."""

Choice = Mapping[str, Guess]
Given = Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a manifest says of a module's tensors: `inputs`, `outputs` and `state`.

    `why` are sentences on each input by name, `notes` on state and batching. `labels` is how many of them a classifier
    would have; None where the output is not probabilities.
    """

    document: dict[str, Any]
    why: dict[str, str]
    notes: list[str]
    labels: int | None


def infer(module: nn.Module, given: Given) -> Draft:
    """Infer inputs, outputs and state of a module; `given` are the inputs that need no guessing, by name.

    Raises:
        ConfigurationError: no inputs were found that forward takes; the sentence says what to pass.

    """
    names = _names(module, given)
    held = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    forward = Forward(module, names, lambda: held)
    best: _Attempt | None = None
    seen, failure, tried, end = set[object](), "", 0, time.monotonic() + _SECONDS
    for choice in _choices(module, names, given):
        if time.monotonic() > end or len(seen) >= _ENOUGH or (best and best.perfect):
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
        best = attempt if best is None else max(best, attempt, key=lambda one: one.score)
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

    def __init__(self, forward: Forward, choice: Choice, given: Given) -> None:
        self._forward, self._choice, self._given = forward, choice, given
        self._zeros = _dry_run(forward, choice, torch.zeros).changes
        self._random = _dry_run(forward, choice, _random)
        self._changes = self._random.changes | self._zeros
        with suppress(ModelFailedError):  # forward need not take ones, as indices of a short table
            self._changes = _dry_run(forward, choice, torch.ones).changes | self._changes
        self._registered = {slot.name: slot.registered for slot in forward.slots()}
        self._state = [name for name in self._registered if name in self._changes]
        self._version = self._first()
        self._time: Axes = {}
        self._opened = set[tuple[str, int]]()
        if self._state:
            ways = assignments(self._version, {}, every=False)
            self._time = next((axes for axes in ways if rows_are_steps(self._version, axes)), {})
            self._vary(self._time)
        self._version = batched(self._version, self._time) or self._version

    @property
    def _batch(self) -> Axes:
        """The batch axis of each input; nothing where there is none."""
        inputs = self._version.manifest.inputs
        return {spec.name: spec.batch_dim for spec in inputs if spec.batch_dim is not None}

    @property
    def score(self) -> tuple[int, ...]:
        """What speaks for these inputs, the weightiest first: the more, the better."""
        keeps_shape = all(
            (before := self._registered[name]) is None
            or ((after := self._random.state[name]) is not None and after.shape == before.shape)
            for name in self._state
        )
        fitting = [one.datatype.kind == "float" or likely(name) for name, one in self._choice.items()]
        axes = set(self._batch.values())
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
                other = {**best._choice, name: replace(one, datatype=floating(self._forward.module))}
                with suppress(ModelFailedError):
                    best = max(_Attempt(self._forward, other, self._given), best, key=lambda attempt: attempt.score)
        return best

    def check_sizes(self) -> None:
        """Do not choose a size where forward takes several, but not 1.

        Raises:
            ConfigurationError: with the axis.

        """
        for name, one in self._choice.items():
            for axis, larger in one.larger():
                with suppress(ModelFailedError):
                    _dry_run(self._forward, {**self._choice, name: larger}, torch.zeros)
                    spec = with_sizes(one.spec(name), () if self._state else {self._batch.get(name, -1)}, -1)
                    shape = ",".join("SIZE" if at in one.sizes else str(size) for at, size in enumerate(spec.shape))
                    raise ConfigurationError(
                        f"forward takes more than one size along axis {axis} of {name!r} ({one.shape[axis]} and "
                        f"{larger.shape[axis]}), but not 1: say which, as in --input {name}:{one.datatype.name}:{shape}"
                    )

    def draft(self) -> Draft:
        """Return what was found, as a manifest says it."""
        if not self._state:
            for axes in (self._batch, *assignments(self._version, self._batch, every=False)):
                self._vary(axes)
        for name, spec in self._given.items():
            for axis in (axis for axis, size in enumerate(spec.shape) if size == -1):
                self._vary({name: axis})
        manifest = self._version.manifest
        if not self._state and self._batch and not self._given:
            manifest = _narrowed(manifest)
        named = [name for name in self._state if self._batch or name not in self._zeros]
        state = {name: manifest.state[name].model_dump(exclude_none=True) if self._batch else {} for name in named}
        return Draft(
            {
                "inputs": [_document(spec) for spec in manifest.inputs],
                "outputs": [_document(spec) for spec in manifest.outputs],
                **({"state": state} if state else {}),
            },
            {spec.name: self._why(spec) for spec in manifest.inputs},
            [*self._why_state(), self._why_batching()],
            _probabilities(name_outputs(self._random.returned)),
        )

    def _first(self) -> ModelVersion:
        """The version before any axis has a meaning."""
        outputs = name_outputs(_dry_run(self._forward, self._choice, torch.zeros).returned)
        if not outputs:
            raise ModelFailedError(f"forward returned {type(self._random.returned).__name__}, which names no tensors")
        manifest = Manifest(
            inputs=tuple(self._given.get(name) or one.spec(name) for name, one in self._choice.items()),
            outputs=tuple(Guess(of_tensor(x), tuple(x.shape)).spec(name) for name, x in outputs.items()),
        )
        return ModelVersion("new", "1", manifest, self._forward, self._state)

    def _vary(self, axes: Axes) -> None:
        """Give -1 to axes of the inputs, and those of the outputs that follow, if forward and batching allow it."""
        for name, axis in axes.items():
            if (name, axis) in self._opened or (name in self._given and self._given[name].shape[axis] != -1):
                return
        if axes and (found := varying(self._version, axes)) is not None:
            self._version = found
            self._opened |= axes.items()

    def _why(self, spec: TensorSpec) -> str:
        if spec.name in self._given:
            return "as given with --input"
        if (axis := self._time.get(spec.name)) is not None:
            return f"found by trying; axis {axis} holds steps: several in one call gave what they gave one by one"
        if self._state:
            return "found by trying; one call is one step: no axis was found along which several steps can lie"
        return "found by trying" + ("; -1 where forward takes any size" if -1 in spec.shape else "")

    def _why_state(self) -> Iterator[str]:
        for name in self._state:
            unseen = "" if name in self._zeros else ", though not on zeros, so that it must be named here"
            yield f"state {name}: {self._changes[name].value}{unseen}"
        if frozen := [name for name in self._registered if name not in self._state]:
            yield f"frozen: {', '.join(frozen)}"

    def _why_batching(self) -> str:
        who = "sessions" if self._state else "requests"
        if self._batch:
            return f"batch_dim: {who} in one batch gave what each gave alone"
        return f"no batch_dim: no axis was found along which {who} in one batch give what each gives alone"


def _dry_run(forward: Forward, choice: Choice, fill: Callable[..., Tensor]) -> Outcome:
    return dry_run(forward, {name: fill(one.shape, dtype=one.datatype.torch) for name, one in choice.items()})


def _random(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Random numbers; whole ones from 0 and 1."""
    random = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=random).to(dtype)
    return torch.randint(0, 2, shape, generator=random).to(dtype)


def _names(module: nn.Module, given: Given) -> list[str]:
    names = required_inputs(module.forward)
    if names is None and not given:
        raise ConfigurationError(
            "forward's signature does not name its inputs: pass each, as in --input rows:FP32:-1,8"
        )
    if not names and not given:
        raise ConfigurationError("forward takes no input; a model takes at least one tensor")
    return list(dict.fromkeys((*(names or ()), *given)))


def _choices(module: nn.Module, names: Sequence[str], given: Given) -> Iterator[dict[str, Guess]]:
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


def _narrowed(manifest: Manifest) -> Manifest:
    """Instances lie along the first axis that varies; where that is not the batch axis, this one stays 1."""
    if all(spec.instance_axis is None or (spec.batch_dim or 0) <= spec.instance_axis for spec in manifest.inputs):
        return manifest
    narrowed = {
        key: tuple(with_sizes(spec, {spec.batch_dim or 0}, 1) for spec in specs)
        for key, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs))
    }
    return manifest.model_copy(update=narrowed)


def _document(spec: TensorSpec) -> dict[str, Any]:
    batch = {} if spec.batch_dim is None else {"batch_dim": spec.batch_dim}
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape), **batch}


def _probabilities(returned: Mapping[str, Tensor]) -> int | None:
    """How many probabilities the only output gives."""
    output, *others = returned.values()
    if others or not output.is_floating_point() or not output.ndim or bool((output < 0).any()):
        return None
    sums = output.float().sum(-1)
    return output.shape[-1] if torch.allclose(sums, torch.ones_like(sums), atol=1e-2) else None
