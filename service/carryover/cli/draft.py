"""A first manifest, inferred from a module by running it: its inputs, outputs, state and how to batch it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from carryover.cli.axes import Axes, Axis, Batching, Example
from carryover.cli.candidates import Candidate, candidates, likely
from carryover.cli.trial import Outcome, Trial, example, outputs, required_inputs
from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime.buffers import Change
from carryover.runtime.datatypes import Datatype, of_tensor
from carryover.runtime.manifest import TensorSpec

_SECONDS = 30.0
"""How long inputs are looked for."""
_ENOUGH = 12
"""Inputs that forward takes and that are compared before the best of them is chosen."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a manifest says of a module's tensors, and why.

    `state` are the buffers that the manifest must name, with their batch axis. Each `why` is a sentence; those of the
    inputs are by name. `labels` is how many of them a classifier would have; None where the output is not
    probabilities.
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    state: dict[str, dict[str, int]]
    batched: bool
    why_inputs: dict[str, str]
    why_state: list[str]
    why_batching: str
    labels: int | None

    @property
    def notes(self) -> list[str]:
        """Every reason, as a sentence."""
        return [*(f"{name}: {why}" for name, why in self.why_inputs.items()), *self.why_state, self.why_batching]

    def without_batching(self, why: str) -> "Draft":
        """Return the draft without any `batch_dim`."""
        return replace(
            self,
            inputs=[_without(spec) for spec in self.inputs],
            outputs=[_without(spec) for spec in self.outputs],
            state={name: {} for name in self.state},
            batched=False,
            why_batching=why,
        )


def draft(trial: Trial, given: Mapping[str, TensorSpec]) -> Draft:
    """Infer inputs, outputs and state of a module.

    `given` are the inputs that need no guessing, by name.

    Raises:
        ConfigurationError: no inputs were found that forward takes; the sentence says what to pass.

    """
    names = _names(trial, given)
    end = time.monotonic() + _SECONDS
    best: _Attempt | None = None
    seen: set[object] = set()
    tried = 0
    failure = ""
    for choice in _choices(trial, names, given):
        if time.monotonic() > end or len(seen) >= _ENOUGH:
            break
        family = tuple(one.family for one in choice.values())
        if family in seen:
            continue
        tried += 1
        try:
            attempt = _Attempt(trial, choice, given)
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
        ModelFailedError: it takes them not.

    """

    def __init__(self, trial: Trial, choice: Mapping[str, Candidate], given: Mapping[str, TensorSpec]) -> None:
        self._trial = trial
        self._choice = choice
        self._given = given
        self._zeros = self._run(None)
        self._random = self._run(torch.Generator().manual_seed(0))
        self._changes = self._ones() | self._random.changes
        self._outputs = outputs(self._zeros.returned)
        if not self._outputs:
            raise ModelFailedError(f"forward returned {type(self._zeros.returned).__name__}, which names no tensors")
        registered = trial.initial()
        self._state = [name for name in registered if name in self._zeros.changes or name in self._changes]
        self._keeps_shape = all(
            (before := registered[name]) is None
            or ((after := self._random.state[name]) is not None and after.shape == before.shape)
            for name in self._state
        )
        examples = {name: Example(one.datatype, one.shape) for name, one in choice.items()}
        self._axis = Axis(trial, examples, self._state)
        self._time = (self._axis.time() or {}) if self._state else {}
        self._batching: Batching | None = next(self._axis.batching(self._time), None)

    @property
    def score(self) -> tuple[int, ...]:
        """What speaks for these inputs, the weightiest first: the more, the better."""
        fitting = [one.datatype.kind == "float" or likely(name) for name, one in self._choice.items()]
        axes = set(self._batching.inputs.values()) if self._batching else set()
        return (
            self._keeps_shape,
            sum(map(bool, fitting)),
            bool(self._time) or not self._state,
            bool(axes),
            len(axes) == 1,
        )

    @property
    def perfect(self) -> bool:
        """Whether nothing could score higher."""
        return self.score == (True, len(self._choice), True, True, True)

    def in_floats(self) -> "_Attempt":
        """Return the same, with floating inputs where whole numbers are not called for."""
        best = self
        datatype = next(one.datatype for one in candidates(self._trial.module, "") if one.datatype.kind == "float")
        for name, one in self._choice.items():
            if name not in self._given and one.datatype.kind != "float" and likely(name) is None:
                floating = replace(one, datatype=datatype)
                with suppress(ModelFailedError):
                    other = _Attempt(self._trial, {**best._choice, name: floating}, self._given)
                    best = max(other, best, key=lambda attempt: attempt.score)
        return best

    def check_sizes(self) -> None:
        """Refuse to choose a size where forward takes several, but not 1.

        Raises:
            ConfigurationError: with the axis.

        """
        for name, one in self._choice.items():
            for larger in one.larger():
                try:
                    self.run(self._trial, {**self._choice, name: larger}, None)
                except ModelFailedError:
                    continue
                instances = self._batching.inputs[name] if self._batching and not self._state else None
                shape = ",".join(
                    "SIZE" if axis in one.sizes else "-1" if axis == instances else str(size)
                    for axis, size in enumerate(one.shape)
                )
                axis = larger.sizes[0]
                raise ConfigurationError(
                    f"forward takes more than one size along axis {axis} of {name!r} ({one.shape[axis]} and "
                    f"{larger.shape[axis]}), but not 1: say which, as in --input {name}:{one.datatype.name}:{shape}"
                )

    def draft(self) -> Draft:
        """Return what was found, as a manifest says it."""
        varying, batching = self._varying(), self._batching
        return Draft(
            inputs=[
                _spec(
                    name,
                    one.datatype,
                    self._given[name].shape if name in self._given else _opened(one.shape, varying.inputs[name]),
                    batching.inputs[name] if batching else None,
                )
                for name, one in self._choice.items()
            ],
            outputs=[
                _spec(
                    name,
                    of_tensor(tensor),
                    _opened(tensor.shape, varying.outputs[name]),
                    batching.outputs[name] if batching else None,
                )
                for name, tensor in self._outputs.items()
            ],
            state={
                name: {"batch_dim": batching.state[name]} if batching else {}
                for name in self._state
                if batching or name not in self._zeros.changes
            },
            batched=batching is not None,
            why_inputs={name: self._why(name, varying.inputs[name]) for name in self._choice},
            why_state=self._why_state(),
            why_batching=self._why_batching(),
            labels=_probabilities(outputs(self._random.returned)),
        )

    def _varying(self) -> "_Varying":
        """The axes that get -1."""
        found = _Varying({name: set() for name in self._choice}, {name: set() for name in self._outputs})
        declared = {name: {i for i, size in enumerate(spec.shape) if size == -1} for name, spec in self._given.items()}
        if self._state:
            ways: list[Axes] = [self._time] if self._time else []
        else:
            batch: Axes = self._batching.inputs if self._batching else {}
            taken = {name: [axis] for name, axis in batch.items() if axis is not None}
            ways = [batch] if batch else []
            ways += list(self._axis.assignments(taken, every=False))
        ways += [{name: axis} for name, axes in declared.items() for axis in axes]
        for way in ways:
            chosen = {name: axis for name, axis in way.items() if axis is not None}
            if any(
                axis in found.inputs[name] or axis not in declared.get(name, {axis}) for name, axis in chosen.items()
            ):
                continue
            if (follow := self._axis.varying(way)) is None or not self._stays_batched(chosen):
                continue
            for name, axis in chosen.items():
                found.inputs[name].add(axis)
            for name, axes in follow.items():
                found.outputs[name].update(axes)
        if not self._state and self._batching:
            self._narrow(found, self._batching)
        return found

    def _stays_batched(self, chosen: dict[str, int]) -> bool:
        """Whether requests can still be batched where they are longer along these axes."""
        batching = self._batching
        return batching is None or chosen == batching.inputs or bool(self._state) or self._axis.holds(batching, chosen)

    def _narrow(self, found: "_Varying", batching: Batching) -> None:
        """Instances lie along the first axis that varies; where that is not the batch axis, this one stays 1."""
        if self._given or all(axis == min(found.inputs[name] | {axis}) for name, axis in batching.inputs.items()):
            return
        for name, axis in batching.inputs.items():
            found.inputs[name].discard(axis)
        for name, axis in batching.outputs.items():
            found.outputs[name].discard(axis)

    def _why(self, name: str, varying: set[int]) -> str:
        if name in self._given:
            return "as given with --input"
        axis = self._time.get(name)
        if axis is not None:
            return f"found by trying; axis {axis} holds steps: several in one call gave what they gave one by one"
        if self._state:
            return "found by trying; one call is one step: no axis was found along which several steps can lie"
        return "found by trying" + ("; -1 where forward takes any size" if varying else "")

    def _why_state(self) -> list[str]:
        changes, unseen = self._zeros.changes, self._changes
        frozen = [name for name in self._trial.initial() if name not in self._state]
        return [
            *(
                f"state {name}: {changes[name].value}"
                if name in changes
                else f"state {name}: {unseen[name].value}, though not on zeros, so that it must be named here"
                for name in self._state
            ),
            *([f"frozen: {', '.join(frozen)}"] if frozen else []),
        ]

    def _why_batching(self) -> str:
        who = "sessions" if self._state else "requests"
        if self._batching:
            return f"batch_dim: {who} side by side gave what each gave alone"
        return f"no batch_dim: no axis was found along which {who} side by side give what each gives alone"

    def _ones(self) -> dict[str, Change]:
        """The buffers that ones change; none where forward does not take them, as indices of a short table."""
        try:
            return self._trial.run(
                {name: torch.ones(one.shape, dtype=one.datatype.torch) for name, one in self._choice.items()}
            ).changes
        except ModelFailedError:
            return {}

    def _run(self, random: torch.Generator | None) -> Outcome:
        return self.run(self._trial, self._choice, random)

    @staticmethod
    def run(trial: Trial, choice: Mapping[str, Candidate], random: torch.Generator | None) -> Outcome:
        """Run forward on zeros, or on random numbers."""
        inputs: dict[str, Tensor] = {name: example(one.datatype, one.shape, random) for name, one in choice.items()}
        return trial.run(inputs)


@dataclass(slots=True)
class _Varying:
    inputs: dict[str, set[int]]
    outputs: dict[str, set[int]]


def _names(trial: Trial, given: Mapping[str, TensorSpec]) -> list[str]:
    names = required_inputs(trial.module)
    if names is None:
        if not given:
            raise ConfigurationError(
                "forward's signature does not name its inputs: pass each, as in --input rows:FP32:-1,8"
            )
        return list(given)
    if not names and not given:
        raise ConfigurationError("forward takes no input; a model takes at least one tensor")
    return [*names, *(name for name in given if name not in names)]


def _choices(trial: Trial, names: Sequence[str], given: Mapping[str, TensorSpec]) -> Iterator[dict[str, Candidate]]:
    """Every combination of candidates, the likeliest first."""
    lists = [
        [Candidate(given[name].datatype, given[name].example_shape)]
        if name in given
        else candidates(trial.module, name)
        for name in names
    ]
    for total in range(sum(map(len, lists))):
        for way in _ways(lists, total):
            yield dict(zip(names, way, strict=True))


def _ways(lists: Sequence[Sequence[Candidate]], total: int) -> Iterator[tuple[Candidate, ...]]:
    """One of each list, their places in the lists adding up to `total`."""
    first, *rest = lists
    if not rest:
        if total < len(first):
            yield (first[total],)
        return
    for place in range(min(total + 1, len(first))):
        yield from ((first[place], *others) for others in _ways(rest, total - place))


def _probabilities(returned: Mapping[str, Tensor]) -> int | None:
    """How many probabilities the only output gives."""
    output, *others = returned.values()
    if others or not output.is_floating_point() or not output.ndim or bool((output < 0).any()):
        return None
    sums = output.float().sum(-1)
    return output.shape[-1] if torch.allclose(sums, torch.ones_like(sums), atol=1e-2) else None


def _spec(name: str, datatype: Datatype, shape: Sequence[int], batch_dim: int | None) -> dict[str, Any]:
    batch = {} if batch_dim is None else {"batch_dim": batch_dim}
    return {"name": name, "datatype": datatype.name, "shape": list(shape), **batch}


def _opened(shape: Sequence[int], axes: set[int]) -> list[int]:
    return [-1 if axis in axes else size for axis, size in enumerate(shape)]


def _without(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "batch_dim"}
