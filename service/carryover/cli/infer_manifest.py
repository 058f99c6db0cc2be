"""A first manifest, inferred from a module by running it: its inputs, outputs, state and how to batch it."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from carryover.errors import ConfigurationError, GrowingStateError, ModelFailedError
from carryover.runtime.attributes import Snapshot
from carryover.runtime.axes import Experiment
from carryover.runtime.discovery import dry_run, optional_inputs
from carryover.runtime.forward import Forward, method_of, required_inputs, zeros
from carryover.runtime.input_guesses import Guess, choices, floating, likely
from carryover.runtime.manifest import StateSpec, TensorSpec
from carryover.runtime.state_guesses import likely as likely_state
from carryover.runtime.structure import fields

_EXAMPLES = {"int": 1, "float": 0.5}
_TRIED: Mapping[tuple[str, ...], float] = {(): 30.0, ("int", "float"): 15.0}
"""Kinds of inputs that are tried with these, as forward need not take 0, and how long that may take, in seconds."""
_TIME_AFTER_THE_FIRST = 3.0
"""How long others are tried once one was found that forward takes, in seconds."""
_ENOUGH = 12
"""Inputs that forward takes and that are compared before the best of them is chosen."""

_MOST_ENTRIES = 5
"""Entries of state that are said one by one: with all else, a manifest then has 12 lines."""

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


def infer(module: nn.Module, given: Given, method: str = "forward") -> Draft:
    """Infer inputs, outputs and state of a module; `given` are the inputs that need no guessing, by name.

    `method` is what is called.

    Raises:
        ConfigurationError: no inputs were found that forward takes; the sentence says what to pass.

    """
    names = _names(method_of(module, method), given)
    held = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if any(map(is_lazy, held.values())):
        raise ConfigurationError(
            "some parameters have no shape before the first forward: run the module once, save its state_dict(), and "
            "pass that as --weights"
        )
    held = {name: value.clone() for name, value in held.items()}
    forward, constructed = Forward(module, names, lambda: held, method=method), Snapshot(module)
    try:
        return _infer(forward, given)
    finally:
        constructed.restore()  # what a first forward has registered is no part of the checkpoint


def _infer(forward: Forward, given: Given) -> Draft:
    failures, tried = list[str](), 0
    for kinds, seconds in _TRIED.items():
        best, failure, tries = _best(forward, given, kinds, seconds)
        if best is not None:
            best = best.with_zeros().in_floats()
            best.check_sizes()
            return best.draft()
        failures.append(failure)
        tried += tries
    open_ = " ".join(f"--input {name}:FP32:-1,8" for name in forward.inputs if name not in given)
    raise ConfigurationError(
        f"no input was found for {', '.join(forward.inputs)} that forward takes, in {tried} tries; the first failed "
        f"with: {failures[0]}; say what it takes, as in {open_}"
        if open_
        else f"forward does not take zeros of the shapes given with --input: {failures[0]}"
    )


def _best(forward: Forward, given: Given, kinds: Collection[str], seconds: float) -> tuple["_Attempt | None", str, int]:
    """Return the best attempt, the first failure, and how many inputs were tried; `kinds` are as in `_Attempt`."""
    best: _Attempt | None = None
    seen, failure, tried, end = set[object](), "", 0, time.monotonic() + seconds
    for choice in choices(forward.module, forward.inputs, given):
        enough = best is not None and (best.perfect or (best.passes_on and len(seen) >= _ENOUGH))
        if enough or time.monotonic() > end:
            break
        family = tuple(one.family for one in choice.values())
        if family in seen:
            continue
        tried += 1
        try:
            attempt = _Attempt(forward, choice, given, kinds)
        except GrowingStateError as error:
            raise ConfigurationError(str(error)) from error
        except ModelFailedError as error:
            failure = failure or str(error)
            continue
        if any(guess.joined for guess in choice.values()) and not attempt.returns_state:
            continue
        if not seen:
            end = min(end, time.monotonic() + _TIME_AFTER_THE_FIRST)
        seen.add(family)
        best = attempt if best is None else max(best, attempt, key=lambda one: one.score)
    return best, failure, tried


class _Attempt:
    """Inputs that forward takes, and what it makes of them; those of some `kinds` are tried with other numbers than 0.

    Raises:
        ModelFailedError: it does not take them.

    """

    def __init__(self, forward: Forward, choice: Mapping[str, Guess], given: Given, kinds: Collection[str]) -> None:
        self._forward, self._choice, self._given, self._kinds = forward, choice, given, kinds
        self._found = Experiment(forward, [self._spec(name, guess) for name, guess in choice.items()], given)

    def _spec(self, name: str, guess: Guess) -> TensorSpec:
        spec = self._given.get(name) or guess.spec(name)
        kind = spec.datatype.kind
        return spec.changed(example=_EXAMPLES[kind]) if kind in self._kinds and spec.example is None else spec

    @property
    def score(self) -> tuple[int, ...]:
        """What speaks for these inputs, the weightiest first: the more, the better."""
        found, axes = self._found, set(self._found.batch.values())
        fitting = [guess.datatype.kind == "float" or likely(name) for name, guess in self._choice.items()]
        steps = bool(found.time) or not found.state
        return (
            not found.broadcast,
            self.passes_on,
            found.keeps_shape(),
            sum(map(bool, fitting)),
            steps,
            bool(axes),
            len(axes) == 1,
        )

    @property
    def returns_state(self) -> bool:
        """Whether forward cannot do without its state, and returns it beside something else."""
        state = {str(spec.output) for spec in self._found.found.values() if spec.initial == "zeros"}
        others = {str(key) for key, _ in fields(self._found.outcome.returned)} - state
        return bool(state and others)

    @property
    def passes_on(self) -> bool:
        """Whether no input is left that is likely to be state, to judge by its name and by that there are others."""
        return len(self._choice) == 1 or not any(map(likely_state, self._found.forward.inputs))

    @property
    def perfect(self) -> bool:
        """Whether nothing could score higher."""
        return self.score == (True, True, True, len(self._choice), True, True, True)

    def with_zeros(self) -> "_Attempt":
        """Return the same with zeros for floating inputs, if it is for others that forward does not take them."""
        if "float" in self._kinds:
            with suppress(ModelFailedError):
                return _Attempt(self._forward, self._choice, self._given, set(self._kinds) - {"float"})
        return self

    def in_floats(self) -> "_Attempt":
        """Return the same, with floating inputs where whole numbers are not called for."""
        best, forward = self, self._forward
        for name, guess in self._choice.items():
            if name not in self._given and guess.datatype.kind != "float" and likely(name) is None:
                other = {**best._choice, name: replace(guess, datatype=floating(forward.module))}
                with suppress(ModelFailedError):
                    best = max(
                        _Attempt(forward, other, self._given, self._kinds), best, key=lambda attempt: attempt.score
                    )
        return best

    def check_sizes(self) -> None:
        """Do not choose a size where forward takes several, but not 1.

        Raises:
            ConfigurationError: with the axis.

        """
        for name, guess in self._choice.items():
            for axis, larger in guess.larger():
                other = {**self._choice, name: larger}
                try:
                    dry_run(self._forward, zeros([self._spec(key, one) for key, one in other.items()]))
                except ModelFailedError:
                    continue
                batch = -1 if self._found.state else self._found.batch.get(name, -1)
                sizes = ["-1" if at == batch else str(size) for at, size in enumerate(guess.shape)]
                shape = ",".join("SIZE" if at in guess.sizes else size for at, size in enumerate(sizes))
                raise ConfigurationError(
                    f"forward takes more than one size along axis {axis} of {name!r} ({guess.shape[axis]} and "
                    f"{larger.shape[axis]}), but not 1: say which, as in --input {name}:{guess.datatype.name}:{shape}"
                )

    def draft(self) -> Draft:
        """Return what was found, as a manifest says it."""
        found, manifest = self._found, self._found.manifest()
        manifest = manifest.model_copy(update={"inputs": optional_inputs(found.forward, manifest)})
        document = manifest.model_dump(include={"inputs", "outputs"}, exclude_defaults=True)
        if found.forward.call:
            document["call"] = found.forward.call
        # What zeros do not reveal must be named.
        named = [name for name in found.buffers if found.batch or name not in found.zeros]
        if named or found.found:
            state = {name: manifest.state.get(name, StateSpec()).said() for name in (*named, *found.found)}
            document["state"] = _brief(state, found) if len(state) > _MOST_ENTRIES else state
        why = {spec.name: self._why(spec) for spec in manifest.inputs}
        return Draft(document, why, list(self._notes()), found.probabilities())

    def _why(self, spec: TensorSpec) -> str:
        if spec.name in self._given:
            return "as given with --input"
        if (axis := self._found.time.get(spec.name)) is not None:
            return f"found by trying; axis {axis} holds steps: several in one call gave what they gave one by one"
        if self._found.state:
            return "found by trying; one call is one step: no axis was found along which several steps can lie"
        return "found by trying" + ("; -1 where forward takes any size" if -1 in spec.shape else "")

    def _notes(self) -> Iterator[str]:
        """Why there is state, and why there is batching."""
        found, who = self._found, "sessions" if self._found.state else "requests"
        for name in found.forward.call:
            yield f"call: {name} = true, without which forward gives no state"
        for entry in found.forward.entries:
            taken = entry.spec.initial == "zeros"
            reason = "which it takes" if taken else "steps with it gave other results than without"
            yield f"state {entry.name}: {entry.place}: {reason}"
        for name in found.buffers:
            unseen = "" if name in found.zeros else ", though not on zeros, so that it must be named here"
            yield f"state {name}: {found.changes[name].value}{unseen}"
        if frozen := [slot.name for slot in found.forward.slots() if slot.name not in found.buffers]:
            yield f"frozen: {', '.join(frozen)}"
        if found.batch:
            yield f"batch_dim: {who} in one batch gave what each gave alone"
        else:
            yield f"no batch_dim: no axis was found along which {who} in one batch give what each gives alone"


def _brief(state: dict[str, dict[str, Any]], found: Experiment) -> dict[str, Any]:
    """Say the batch axis of most entries once, for all state; a buffer of which no more is said need not be named."""
    axes = Counter(said["batch_dim"] for said in state.values() if isinstance(said.get("batch_dim"), int))
    if not axes:
        return state
    ((common, _),) = axes.most_common(1)
    scalars = {slot.name for slot in found.forward.slots() if slot.registered is not None and not slot.registered.ndim}
    rest: dict[str, Any] = {"batch_dim": common}
    for name, said in state.items():
        left = {key: value for key, value in said.items() if (key, value) != ("batch_dim", common)}
        if name in scalars:
            left.pop("shared", None)  # without an axis it is so by itself
        if left or name not in found.zeros:
            rest[name] = left
    return rest


def _names(method: Callable[..., Any], given: Given) -> list[str]:
    names = required_inputs(method)
    if names is None and not given:
        raise ConfigurationError("forward's signature does not name its inputs: pass each, as in --input x:FP32:-1,8")
    if not names and not given:
        raise ConfigurationError("forward takes no input; a model takes at least one tensor")
    return list(dict.fromkeys((*(names or ()), *given)))
