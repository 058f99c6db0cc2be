"""What a model does that does not keep it from being served, and that its users will notice."""

import time
from collections.abc import Collection, Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from carryover.errors import ModelFailedError
from carryover.runtime import buffers, guard
from carryover.runtime.discovery import dry_run
from carryover.runtime.forward import Forward, called, parameters_of, result_paths, zeros
from carryover.runtime.input_guesses import choices
from carryover.runtime.loading import Loading
from carryover.runtime.report import Report
from carryover.runtime.selfcheck import difference, example_inputs, reason, remedy
from carryover.runtime.state_guesses import flags, likely, optional_parameters
from carryover.runtime.structure import UnsupportedValueError, fields, flatten
from carryover.runtime.version import Call, ModelVersion, Result

_INSTANCES = 3
_STEPS = 4
_MOST_STEPS = 64
"""As many, where the state still grows: a window may fill up."""
_SECONDS = 5.0
"""How long inputs are looked for that forward takes."""


def add_warnings(report: Report, loading: Loading, max_state_bytes: int) -> None:
    """Add warnings about a version to a report; `max_state_bytes` is the largest state that a session may have."""
    if loading.forward is None:
        return
    forward = loading.forward
    state = (*_of_dropped(loading, forward), *_of_sent(loading))
    for sentence in (*_of_inputs(loading, forward), *_of_values(loading, forward), *state):
        report.warn(sentence)
    if (version := loading.version) is not None:
        for sentence in (*_of_batching(version), *_of_behaviour(version, max_state_bytes)):
            report.warn(sentence)


def _of_inputs(loading: Loading, forward: Forward) -> Iterator[str]:
    """What forward takes, where it does not take what the manifest says."""
    if loading.outcome is not None:
        return
    with suppress(ModelFailedError):
        dry_run(forward, zeros(loading.manifest.inputs))
        return  # something else is wrong
    end, names = time.monotonic() + _SECONDS, [spec.name for spec in loading.manifest.inputs]
    for choice in choices(forward.module, names, {}):
        inputs = [guess.spec(name) for name, guess in choice.items()]
        with suppress(ModelFailedError):
            dry_run(forward, zeros(inputs))
            shown = ", ".join(f"{spec.name} {spec.datatype.name} {list(spec.shape)}" for spec in inputs)
            yield f"forward works on zeros of {shown}; is that what the manifest is to say?"
            return
        if time.monotonic() > end:
            return


def _of_values(loading: Loading, forward: Forward) -> Iterator[str]:
    """What is odd about parameters and buffers before anything runs."""
    given = forward.saved()
    for name, parameter in forward.module.named_parameters():
        if not _finite(parameter):
            yield f"the parameter {name!r} holds NaN or infinity, and so will what is computed with it"
    for slot in forward.slots():
        if (held := slot.registered) is None or slot.name in loading.state:
            continue
        if not _finite(held):
            yield f"the frozen buffer {slot.name!r} holds NaN or infinity"
    fresh = loading.fresh()
    fresh = forward.module if fresh is None else fresh  # a module may have a length, and be empty
    yield from _of_initial_state(loading, forward, fresh)
    yield from _of_constructor(loading, fresh, given)
    for name, tensor in forward.module.state_dict().items():
        if not isinstance(tensor, Tensor) or name not in given:
            continue  # extra state is whatever the module saves beside tensors
        if given[name].dtype is not tensor.dtype:
            saved, made = called(given[name]), called(tensor)
            yield f"the checkpoint holds {name!r} as {saved}, the class as {made}: it is converted"


def _of_constructor(loading: Loading, fresh: nn.Module, given: Collection[str]) -> Iterator[str]:
    """What a constructor draws and no checkpoint holds: each worker has others."""
    if (other := loading.fresh()) is None:
        return
    first, second = dict(_unsaved(fresh, given)), dict(_unsaved(other, given))
    if names := [name for name, values in first.items() if second.get(name, values) != values]:
        yield (
            f"the constructor draws {', '.join(map(repr, names))} at random, and the checkpoint holds no such "
            "value: each worker has another, and so has each restart; register_buffer puts it into the checkpoint"
        )


def _unsaved(module: nn.Module, given: Collection[str]) -> Iterator[tuple[str, list[bytes]]]:
    """The tensors and arrays that a module holds beside those of a checkpoint, by attribute or buffer."""
    for name, _, _, tensor in buffers.named(module):
        if name not in given:
            yield name, [buffers.raw(tensor)]
    registered = [tensor for tensor in (*module.parameters(), *module.buffers()) if not is_lazy(tensor)]
    known = set(map(_place, registered))  # in a list, as of an LSTM's
    for prefix, owner in guard.named_modules(module):
        for key, value in vars(owner).items():
            if key not in guard.PLAIN:
                with suppress(UnsupportedValueError):
                    held = [part.tensor for part in flatten(value)[0] if not part.kind.number]
                    rest = [tensor for tensor in held if _place(tensor) not in known]
                    yield guard.dotted(prefix, key), list(map(buffers.raw, rest))


def _place(tensor: Tensor) -> int:
    """Where a tensor's values lie; where that cannot be said, the tensor itself."""
    return tensor.data_ptr() if tensor.layout is torch.strided else id(tensor)


def _of_initial_state(loading: Loading, forward: Forward, fresh: nn.Module) -> Iterator[str]:
    made = {name: tensor for name, _, _, tensor in buffers.named(fresh)}
    for slot in forward.slots():
        name, held = slot.name, slot.registered
        if held is None or name not in loading.state:
            continue
        if bool(held.isnan().any()):
            yield f"the state buffer {name!r} starts as NaN"
        elif bool(held.isinf().any()):
            yield f"the state buffer {name!r} starts at infinity: as an output it is null, as JSON has no infinity"
        if buffers.raw(held) != buffers.raw(made.get(name)):
            yield (
                f"the state buffer {name!r} of the checkpoint is not what the class starts with: every session "
                "starts from it; is it left over from training?"
            )


def _of_batching(version: ModelVersion) -> Iterator[str]:
    if version.batched:
        return
    missing = [f"state buffer {buffer.name!r}" for buffer in version.layout.buffers if buffer.batch_dim is None]
    missing += ["inputs", "outputs"] if version.inputs[0].batch_dim is None else []
    who = "sessions" if version.stateful else "requests"
    yield f"no batch_dim is given for {', '.join(missing)}: {who} run one at a time"


def _of_behaviour(version: ModelVersion, max_state_bytes: int) -> Iterator[str]:
    """What is odd about the forwards of a version, which works on zeros."""
    try:
        yield from _of_zeros(version)
        yield from _of_memory(version)
        yield from _of_instances(version)
        yield from _of_size(version, max_state_bytes)
    except ModelFailedError as error:
        yield f"forward works on zeros, but fails on random numbers: {reason(error)}"


def _of_dropped(loading: Loading, forward: Forward) -> Iterator[str]:
    """State that forward would take, and that nothing passes to it."""
    known = {spec.input for spec in loading.manifest.state.values()}
    names = [name for name in optional_parameters(forward) if likely(name) and name not in known]
    if loading.outcome is None:
        return
    if not names:
        yield from _of_variable(forward, loading.outcome.returned)
        return
    taken = result_paths(loading.manifest.outputs, loading.outcome.returned)
    state = [str(spec.output) for spec in loading.manifest.state.values() if spec.output is not None]
    rest = list(_left(loading.outcome.returned, {*taken, *state}))
    if known - {None} and not rest:
        return
    entry = f'[state.{names[0]}] input = "{names[0]}", output = …'
    if rest:
        yield (
            f"forward takes {names[0]!r} and returns {', '.join(map(repr, rest))}, which no output is: each call "
            f"starts without it; if that is state, the manifest says {entry}"
        )
        return
    found = flags(forward)
    how = f"call = {{ {found[0]} = true }} if it takes that" if found else "forward returns it, in a wrapper if need be"
    yield (
        f"forward takes {names[0]!r}, and nothing that it returns is passed to it: each call starts without it; "
        f"if that is state, the manifest says {entry}, and {how}"
    )


def _of_sent(loading: Loading) -> Iterator[str]:
    """State that forward cannot do without, and that each request sends."""
    if loading.outcome is None or len(fields(loading.outcome.returned)) < 2:  # noqa: PLR2004
        return
    _, *others = loading.manifest.inputs  # what takes a state first, decides on it
    for spec in others:
        if likely(spec.name):
            yield (
                f"each request sends {spec.name!r}, and no session keeps it; if that is state, it is no input, and the "
                f'manifest says [state.{spec.name}] input = "{spec.name}", output = …, initial = "zeros", '
                f"shape = {list(spec.example_shape)}"
            )


def _left(returned: object, taken: Collection[str], prefix: str = "") -> Iterator[str]:
    """The paths of results that are not taken; of one that is taken in part, those of the other parts."""
    for key, value in fields(returned):
        path = f"{prefix}{key}"
        if any(one.startswith(f"{path}.") for one in taken):
            yield from _left(value, taken, f"{path}.")
        elif path not in taken and "" not in taken:
            yield path


def _of_variable(forward: Forward, returned: object) -> Iterator[str]:
    """State that forward may take among arguments that have no names."""
    variable = next((p.name for p in parameters_of(forward.method) if p.kind is p.VAR_POSITIONAL), None)
    results = [str(key) for key, _ in fields(returned)]
    if variable is not None and len(results) > 1 and not forward.entries:
        inputs = ", ".join(forward.inputs)
        yield (
            f"forward takes *{variable} and returns {', '.join(map(repr, results))}, of which none is passed "
            "to the next call; if some are state, a wrapper gives them a name, as in "
            f"def forward(self, {inputs}, state=()): y, *state = self.net({inputs}, *state); return y, state"
        )


def _run(version: ModelVersion, seed: int, state: bytes | None = None, instances: int = 1) -> Result:
    """Run on random numbers; instances lie along each input's first -1."""
    shapes = [
        [
            size if axis != spec.instance_axis else spec.example_length + instances - 1
            for axis, size in enumerate(spec.example_shape)
        ]
        for spec in version.inputs
    ]
    inputs = example_inputs(version.inputs, shapes, np.random.default_rng(seed))
    return version.run([Call(inputs, version.initial_state if state is None else state)])[0]


def _of_zeros(version: ModelVersion) -> Iterator[str]:
    """What JSON cannot express."""
    result = version.run([Call(version.zeros(), version.initial_state)])[0]
    for name, output in result.outputs.items():
        if not np.isfinite(output).all():
            yield f"on zeros the output {name!r} holds NaN or infinity, which are null in JSON"
    if result.non_finite:
        yield f"on zeros forward makes the state buffer {result.non_finite!r} NaN or infinite: such a step is rejected"


def _of_memory(version: ModelVersion) -> Iterator[str]:
    """What forward remembers outside its buffers."""
    attributes = version.forward.attributes
    for name in attributes.restored if attributes else ():
        yield (
            f"forward changes {name!r}, which is no buffer: it is put back after each call; "
            + remedy(version.forward.module, name, "register_buffer makes it state")
        )
    if difference(version, _run(version, 0), _run(version, 0)) is not None:
        yield (
            "two forwards on the same input from the same state differ: forward is random, or remembers something "
            "outside its attributes and buffers"
        )


def _of_instances(version: ModelVersion) -> Iterator[str]:
    """Whether several instances work as one does."""
    axes = {spec.name: spec.instance_axis for spec in version.inputs if spec.instance_axis is not None}
    _run(version, 1)
    if not axes:
        return
    try:
        result = _run(version, 2, instances=_INSTANCES)
    except ModelFailedError as error:
        where = " and ".join(f"axis {axis} of {name!r}" for name, axis in axes.items())
        yield f"the manifest says -1 for {where}, but forward fails on {_INSTANCES} instances: {reason(error)}"
        return
    for spec in version.outputs:
        shape = result.outputs[spec.name].shape
        if any(size not in (-1, found) for size, found in zip(spec.shape, shape, strict=True)):
            yield (
                f"on {_INSTANCES} instances the output {spec.name!r} has another shape; expected {list(spec.shape)}, "
                f"where -1 is for an axis that varies, got {list(shape)}"
            )


def _of_size(version: ModelVersion, limit: int) -> Iterator[str]:
    """State that is too large, or becomes too large."""
    state, sizes = version.initial_state, list[int]()
    for step in range(_MOST_STEPS):
        if step >= _STEPS and sizes[-1] == sizes[-2]:
            break
        try:
            state = _run(version, step, state).state
        except ModelFailedError as error:
            _run(version, step)  # or is it the input?
            yield f"a session ends after {step} steps, as forward fails on its state then: {reason(error)}"
            return
        sizes.append(len(state))
    growth = sizes[-1] - sizes[-2]
    if sizes[-1] > limit:
        yield f"a session's state takes {sizes[-1]:,} bytes, over MAX_STATE_BYTES = {limit:,}: every step is rejected"
    elif growth > 0:
        yield (
            f"the state grows by {growth:,} bytes a step, and every step writes all of it: a session ends at "
            f"MAX_STATE_BYTES = {limit:,}, after about {limit // growth:,} steps"
        )


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
