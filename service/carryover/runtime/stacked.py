"""Batches of a module that knows nothing of batches: `torch.func.vmap` runs its forward for many calls at once.

A forward that looks at values, draws random numbers or uses kernels without a batching rule cannot be run so; whether
it gives the same is tried when the model is loaded.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carryover.errors import ModelFailedError
from carryover.runtime.buffers import Slot
from carryover.runtime.datatypes import Array
from carryover.runtime.forward import Forward, match_outputs, output_faults
from carryover.runtime.layout import Layout, all_finite
from carryover.runtime.manifest import TensorSpec

FEW = 6
"""Calls that take less time one after another than together, whose forward has to be traced."""


def fits(layout: Layout) -> bool:
    """Whether sessions of this layout can be stacked: each buffer is there, and has one shape."""
    return all(
        buffer.registered is not None and buffer.batch_dim is None and not buffer.shared for buffer in layout.buffers
    )


def run(
    forward: Forward,
    slots: Sequence[Slot],
    outputs: Sequence[TensorSpec],
    state: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a forward on states and inputs, each (calls, …), and return the states and outputs, each (calls, …).

    Raises:
        ModelFailedError: the forward returned what the manifest does not say.

    """

    def one(*given: Tensor) -> tuple[Tensor, ...]:
        for slot, tensor in zip(slots, given[: len(slots)], strict=True):
            slot.put(tensor)
        found = match_outputs(outputs, forward(given[len(slots) :]))
        if faults := output_faults(outputs, found):
            raise ModelFailedError(faults[0])
        return (*(_tensor(slot) for slot in slots), *(found[spec.name] for spec in outputs))

    results = torch.func.vmap(one)(*state, *inputs)
    return list(results[: len(slots)]), list(results[len(slots) :])


def _tensor(slot: Slot) -> Tensor:
    tensor = slot.get()
    if tensor is None:
        raise ModelFailedError(f"forward left the state buffer {slot.name!r} as None")
    return tensor


def join(layout: Layout, states: Sequence[bytes]) -> list[Tensor]:
    """Return a fresh tensor for each buffer, (sessions, …)."""
    matrix = np.frombuffer(b"".join(states), np.uint8).reshape(len(states), layout.nbytes)
    tensors: list[Tensor] = []
    end = 0
    for buffer in layout.buffers:
        held = buffer.registered
        assert held is not None  # noqa: S101 - else it does not fit
        start, end = end, end + held.nbytes
        rows = torch.from_numpy(matrix[:, start:end].copy().view(held.datatype.carrier))
        tensors.append(rows.view(held.datatype.torch).reshape(len(states), *held.shape))
    return tensors


def split(layout: Layout, tensors: Sequence[Tensor], count: int) -> tuple[list[bytes], bool]:
    """Return each session's bytes, and whether every float in them is finite: the reverse of `join`.

    Raises:
        ModelFailedError: a buffer has another shape or datatype than it was registered with.

    """
    columns: list[Array] = []
    finite = True
    for buffer, tensor in zip(layout.buffers, tensors, strict=True):
        held = buffer.registered
        if held is None or tensor.dtype is not held.datatype.torch or tensor.shape[1:] != held.shape:
            raise ModelFailedError(f"forward left the state buffer {buffer.name!r} with another shape or datatype")
        rows = tensor.contiguous().view(count, -1) if held.shape else tensor.contiguous().view(count, 1)
        array = (rows.view(torch.int16) if tensor.dtype is torch.bfloat16 else rows).numpy(force=True)
        finite = finite and all_finite(array, held.datatype)
        columns.append(array.view(np.uint8))
    data = (columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)).tobytes() if columns else b""
    width = layout.nbytes
    return [data[i * width : (i + 1) * width] for i in range(count)], finite
