"""What a model does that the service would put up with, and its users would stumble over."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from carryover.cli.axes import resized
from carryover.cli.figures import name as datatype_name
from carryover.cli.trial import Outcome, Trial, close, example, outputs
from carryover.errors import ModelFailedError
from carryover.runtime.manifest import TensorSpec

_INSTANCES = 3
_STEPS = 4


@dataclass(frozen=True, slots=True)
class Subject:
    """A module with its weights loaded, and what its manifest says.

    `inputs` and `outputs` are those of one session, `state` the names of the state buffers. `fresh` are the buffers as
    the class makes them, `given` the tensors of the checkpoint.
    """

    trial: Trial
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    state: Collection[str]
    fresh: Mapping[str, Tensor | None]
    given: Mapping[str, Tensor]

    def run(self, seed: int | None = None, instances: int = 1) -> Outcome:
        """Run forward on zeros, or on random numbers; instances lie along each input's first -1."""
        random = None if seed is None else torch.Generator().manual_seed(seed)
        return self.trial.run(
            {
                spec.name: example(
                    spec.datatype,
                    resized(spec.example_shape, spec.instance_axis, spec.example_length + instances - 1),
                    random,
                )
                for spec in self.inputs
            }
        )


def of_values(subject: Subject) -> Iterator[str]:
    """Say what is odd about parameters and buffers before anything runs."""
    for name, parameter in subject.trial.module.named_parameters():
        if not _finite(parameter):
            yield f"the parameter {name!r} holds NaN or infinity, and so will what is computed with it"
    for name, held in subject.trial.initial().items():
        if name in subject.state:
            yield from _of_initial_state(name, held)
            if name in subject.given and not close(held, subject.fresh[name]):
                yield (
                    f"the state buffer {name!r} of the checkpoint is not what the class begins with: every session "
                    "starts from it; is it left over from training?"
                )
        elif held is not None and not _finite(held):
            yield f"the frozen buffer {name!r} holds NaN or infinity"
    for name, tensor in subject.trial.module.state_dict().items():
        if name in subject.given and subject.given[name].dtype is not tensor.dtype:
            yield (
                f"the checkpoint holds {name!r} as {datatype_name(subject.given[name])}, the class as "
                f"{datatype_name(tensor)}: it is converted"
            )


def _of_initial_state(name: str, held: Tensor | None) -> Iterator[str]:
    if held is not None and bool(held.isnan().any()):
        yield f"the state buffer {name!r} begins as NaN"
    elif held is not None and bool(held.isinf().any()):
        yield f"the state buffer {name!r} begins at infinity: as an output it is null, as JSON has no infinity"


def of_behaviour(subject: Subject, max_state_bytes: int) -> Iterator[str]:
    """Say what is odd about the module's forwards, which work on zeros.

    `max_state_bytes` is the largest state that a session may grow to.
    """
    for caution in (_memory, _frozen_after_all, _instances, _answers):
        try:
            yield from caution(subject)
        except ModelFailedError as error:
            yield f"forward works on zeros, but fails on random numbers: {error}"
            return
    yield from _size(subject, max_state_bytes)


def _memory(subject: Subject) -> Iterator[str]:
    """What forward remembers in other places than buffers."""
    before = subject.trial.attributes()
    first = subject.run(seed=0)
    after = subject.trial.attributes()
    changed = [name for name in after if before.get(name) != after[name]]
    for name in changed:
        yield (
            f"forward changes {name!r}, which is no buffer: all sessions share it, and it is lost with the process; "
            "register_buffer makes it state"
        )
    second = subject.run(seed=0)
    same = all(close(first.state[name], second.state[name]) for name in subject.state) and all(
        close(one, outputs(second.returned).get(name)) for name, one in outputs(first.returned).items()
    )
    if not same and not changed:
        yield (
            "two forwards on the same input from the same state differ: forward is random, or remembers something in "
            "another place than a buffer"
        )


def _frozen_after_all(subject: Subject) -> Iterator[str]:
    """Buffers that the dry run leaves as they are, and another input does not."""
    changed = subject.run(seed=1).changes
    with suppress(ModelFailedError):  # which is said of the instances
        changed = changed | subject.run(seed=2, instances=_INSTANCES).changes
    for name in changed:
        if name not in subject.state:
            yield (
                f"forward leaves the buffer {name!r} as it is on zeros, but changes it on other inputs: such a request "
                "fails; list it under [state] in the manifest if it is meant to change"
            )


def _instances(subject: Subject) -> Iterator[str]:
    """Whether several instances work as one does."""
    axes = {spec.name: spec.instance_axis for spec in subject.inputs if spec.instance_axis is not None}
    if not axes:
        return
    where = " and ".join(f"axis {axis} of {name!r}" for name, axis in axes.items())
    try:
        returned = subject.run(seed=2, instances=_INSTANCES).returned
    except ModelFailedError as error:
        yield f"the manifest says -1 for {where}, but forward fails on {_INSTANCES} instances: {error}"
        return
    for spec, output in zip(subject.outputs, matched(subject.outputs, returned), strict=True):
        if isinstance(output, Tensor) and not fits(spec, output):
            yield (
                f"on {_INSTANCES} instances the output {spec.name!r} has shape {list(output.shape)}, where the "
                f"manifest says {list(spec.shape)}: -1 is for an axis that varies"
            )


def _answers(subject: Subject) -> Iterator[str]:
    """Outputs that JSON cannot say."""
    zeros = subject.run()
    for spec, output in zip(subject.outputs, matched(subject.outputs, zeros.returned), strict=True):
        if isinstance(output, Tensor) and not _finite(output):
            yield f"on zeros the output {spec.name!r} holds NaN or infinity, which are null in JSON"
    for name in subject.state:
        before, after = subject.trial.initial()[name], zeros.state[name]
        if after is not None and (before is None or _finite(before)) and not _finite(after):
            yield f"on zeros forward makes the state buffer {name!r} NaN or infinite: the service refuses such a step"


def _size(subject: Subject, limit: int) -> Iterator[str]:
    """State that is too large, or comes to be."""
    state = subject.trial.initial()
    sizes: list[int] = []
    for step in range(_STEPS):
        random = torch.Generator().manual_seed(step)
        inputs = {spec.name: example(spec.datatype, spec.example_shape, random) for spec in subject.inputs}
        state = subject.trial.run(inputs, state).state
        sizes.append(sum(_nbytes(state[name]) for name in subject.state))
    growth = sizes[-1] - sizes[-2]
    if sizes[-1] > limit:
        yield f"a session's state takes {sizes[-1]:,} bytes, over MAX_STATE_BYTES = {limit:,}: every step is refused"
    elif growth > 0:
        yield (
            f"the state grows by {growth:,} bytes a step, and every step writes all of it: a session ends at "
            f"MAX_STATE_BYTES = {limit:,}, after about {limit // growth:,} steps"
        )


def matched(specs: Sequence[TensorSpec], returned: object) -> list[object]:
    """Return what a forward returned for each output: by key or field where it has them, else in order."""
    if isinstance(returned, tuple) and {spec.name for spec in specs} <= set(getattr(returned, "_fields", ())):
        returned = dict(zip(returned._fields, returned, strict=True))  # type: ignore[attr-defined]
    if isinstance(returned, Mapping):
        return [returned.get(spec.name) for spec in specs]
    values = list(returned) if isinstance(returned, (tuple, list)) else [returned]
    return [values[index] if index < len(values) else None for index in range(len(specs))]


def fits(spec: TensorSpec, output: Tensor) -> bool:
    """Whether an output has the shape that the manifest says."""
    return output.ndim == len(spec.shape) and all(
        size in (-1, found) for size, found in zip(spec.shape, output.shape, strict=True)
    )


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _nbytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()
