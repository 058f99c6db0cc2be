"""A first manifest, inferred from a module by running it: its inputs, outputs, state and how to batch it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from carryover.errors import ConfigurationError
from carryover.runtime.attributes import Snapshot
from carryover.runtime.axes import Experiment
from carryover.runtime.discovery import optional_inputs
from carryover.runtime.forward import Forward, method_of, parameters_of, required_inputs
from carryover.runtime.input_search import Given, search
from carryover.runtime.manifest import StateSpec, TensorSpec
from carryover.runtime.state_guesses import initialised

_MOST_ENTRIES = 5
"""Entries of state that are said one by one: with all else, a manifest then has 12 lines."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a manifest says of a module's tensors: `inputs`, `outputs` and `state`.

    `why` are sentences on each input by name, `notes` on state and batching, `doubts` what its author
    is to check. `labels` is how many of them a classifier
    would have; None where the output is not probabilities.
    """

    document: dict[str, Any]
    why: dict[str, str]
    notes: list[str]
    doubts: list[str]
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
    if (made := initialised(module, names)) is not None and made[0] not in given:
        names.remove(made[0])
    held = {name: value.clone() for name, value in held.items()}
    forward, constructed = Forward(module, names, lambda: held, method=method), Snapshot(module)
    try:
        return _draft(search(forward, given), given)
    finally:
        constructed.restore()  # what a first forward has registered is no part of the checkpoint


def _draft(found: Experiment, given: Given) -> Draft:
    """Return what was found, as a manifest says it."""
    manifest = found.manifest()
    manifest = manifest.model_copy(update={"inputs": optional_inputs(found.forward, manifest)})
    document = manifest.model_dump(include={"inputs", "outputs"}, exclude_defaults=True)
    if found.forward.call:
        document["call"] = found.forward.call
    # What zeros do not reveal must be named.
    named = [name for name in found.buffers if found.batch or name not in found.zeros]
    if named or found.found:
        state = {name: manifest.state.get(name, StateSpec()).said() for name in (*named, *found.found)}
        document["state"] = _brief(state, found) if len(state) > _MOST_ENTRIES else state
    why = {spec.name: _why(spec, found, given) for spec in manifest.inputs}
    doubts = [doubt] if (doubt := found.doubt()) else []
    return Draft(document, why, list(_notes(found)), doubts, found.probabilities())


def _why(spec: TensorSpec, found: Experiment, given: Given) -> str:
    if spec.name in given:
        return "as given with --input"
    if (axis := found.time.get(spec.name)) is not None:
        return f"found by trying; axis {axis} holds steps: several in one call gave what they gave one by one"
    if found.state:
        return "found by trying; one call is one step: no axis was found along which several steps can lie"
    return "found by trying" + ("; -1 where forward takes any size" if -1 in spec.shape else "")


def _notes(found: Experiment) -> Iterator[str]:
    """Why there is state, and why there is batching."""
    who = "sessions" if found.state else "requests"
    for name in found.forward.call:
        yield f"call: {name} = true, without which forward gives no state"
    for entry in found.forward.entries:
        taken = entry.spec.initial is not None
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
        optional = [p.name for p in parameters_of(method) if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not optional:
            raise ConfigurationError("forward takes no input; a model takes at least one tensor")
        raise ConfigurationError(
            f"forward can do without {', '.join(map(repr, optional))}: pass what requests send, as in "
            f"--input {optional[0]}:FP32:-1,8"
        )
    return list(dict.fromkeys((*(names or ()), *given)))
