"""Proving at load what a manifest claims with `batch_dim`: that sessions side by side get what each gets alone."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from service.errors import ConfigurationError, ModelFailedError
from service.model.datatypes import Datatype
from service.model.tensors import Array
from service.model.version import Call, ModelVersion, Result

_SESSIONS = 3
_STEPS = 2
_TOLERANCE = {Datatype.FP16: 3e-2, Datatype.BF16: 1e-1}
"""Relative and absolute; matrix kernels round differently for other batch sizes. 1e-4 for all other datatypes."""


def prove_batching(version: ModelVersion, where: str) -> None:
    """Run a few sessions alone and side by side, and compare outputs and states.

    Raises:
        ConfigurationError: they differ, or only one of the two ways works.

    """
    if not version.batched:
        return
    try:
        calls, alone = _alone(version, high=2)
    except ModelFailedError:
        # Integers may be indices of a table with one row.
        calls, alone = _alone(version, high=1)
    try:
        together = version.run(calls)
    except ModelFailedError as error:
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise ConfigurationError(
            f"{where}: batch_dim: a forward of one session works, one of {_SESSIONS} side by side does not: {reason}"
        ) from error
    for one, other in zip(alone, together, strict=True):
        if (name := _difference(version, one, other)) is not None:
            raise ConfigurationError(
                f"{where}: batch_dim: sessions side by side give another {name!r} than each alone; "
                "leave batch_dim out, and they run one at a time"
            )


def _alone(version: ModelVersion, high: int) -> tuple[list[Call], list[Result]]:
    """Calls of sessions that have come different ways, and what each gives alone."""
    random = np.random.default_rng(0)

    def inputs() -> dict[str, Array]:
        return {
            spec.name: random.standard_normal(spec.example_shape).astype(spec.datatype.numpy)
            if spec.datatype.kind == "float"
            else random.integers(0, high, spec.example_shape).astype(spec.datatype.numpy)
            for spec in version.inputs
        }

    calls = []
    for _ in range(_SESSIONS):
        state = version.initial_state
        for _ in range(_STEPS):
            state = version.run([Call(inputs(), state)])[0].state
        calls.append(Call(inputs(), state))
    return calls, [version.run([call])[0] for call in calls]


def _difference(version: ModelVersion, one: Result, other: Result) -> str | None:
    """The name of the first output or state buffer in which two results differ."""
    for spec in version.outputs:
        if not _close(one.outputs[spec.name], other.outputs[spec.name], spec.datatype):
            return spec.name
    contents = version.layout.contents(one.state)
    if contents != version.layout.contents(other.state):
        return "state"
    tensors: Sequence[tuple[Tensor | None, Tensor | None]] = list(
        zip(version.layout.join([one.state]), version.layout.join([other.state]), strict=True)
    )
    for buffer, held, (a, b) in zip(version.layout.buffers, contents, tensors, strict=True):
        if (
            held
            and a is not None
            and b is not None
            and not _close(a.double().numpy(), b.double().numpy(), held.datatype)
        ):
            return buffer.name
    return None


def _close(a: Array, b: Array, datatype: Datatype) -> bool:
    if a.shape != b.shape:
        return False
    tolerance = _TOLERANCE.get(datatype, 1e-4) if datatype.kind == "float" else 0.0
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
