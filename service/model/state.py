"""A session's state as bytes: the raw little-endian contents of its state buffers, one after the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.errors import ModelFailedError
from service.model.datatypes import Datatype
from service.model.tensors import Array

# numpy types that carry a buffer's bytes; bfloat16 crosses as its 16 bits.
_CARRIER = {datatype.torch: datatype.numpy for datatype in Datatype} | {torch.bfloat16: np.dtype("<i2")}


@dataclass(frozen=True, slots=True)
class StateBuffer:
    """One state buffer of a model.

    `shape` is one session's; `batch_dim`, where the manifest names it, is the axis of `shape` along which sessions are
    laid side by side.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    batch_dim: int | None
    nbytes: int


class Layout:
    """Where each state buffer lies in a session's bytes."""

    def __init__(self, buffers: Sequence[StateBuffer]) -> None:
        self.buffers = tuple(buffers)
        self.nbytes = sum(buffer.nbytes for buffer in buffers)
        self.batched = bool(buffers) and all(buffer.batch_dim is not None for buffer in buffers)

    def join(self, states: Sequence[bytes]) -> list[Tensor]:
        """Lay sessions side by side: one tensor a buffer, along its `batch_dim`. Every tensor is a fresh copy."""
        count = len(states)
        matrix = np.frombuffer(b"".join(states), np.uint8).reshape(count, self.nbytes)
        tensors, end = [], 0
        for buffer in self.buffers:
            start, end = end, end + buffer.nbytes
            rows = torch.from_numpy(matrix[:, start:end].copy().view(_CARRIER[buffer.datatype.torch]))
            if buffer.datatype is Datatype.BF16:
                rows = rows.view(torch.bfloat16)
            rows = rows.reshape(count, *buffer.shape)
            # (sessions, …, n, …) → (…, sessions·n, …)
            tensors.append(rows.movedim(0, buffer.batch_dim or 0).reshape(_batched_shape(buffer, count)))
        return tensors

    def split(self, tensors: Sequence[Tensor | None], count: int) -> tuple[list[bytes], bool]:
        """Take sessions apart again: the reverse of `join`.

        Returns:
            Each session's bytes, and whether every float in them is finite.

        Raises:
            ModelFailedError: `forward` left a buffer with another shape or datatype than it was registered with.

        """
        columns: list[Array] = []
        finite = True
        for buffer, tensor in zip(self.buffers, tensors, strict=True):
            shape = _batched_shape(buffer, count)
            if tensor is None or tensor.shape != shape or tensor.dtype is not buffer.datatype.torch:
                found = "nothing" if tensor is None else f"{tensor.dtype} of shape {list(tensor.shape)}"
                raise ModelFailedError(
                    f"forward left the state buffer {buffer.name!r} as {found} where it was {buffer.datatype.torch} "
                    f"of shape {list(shape)}"
                )
            if buffer.datatype.kind == "float":
                finite = finite and bool(tensor.isfinite().all())
            dim = buffer.batch_dim or 0
            # (…, sessions·n, …) → (sessions, …, n, …)
            rows = tensor.reshape(*buffer.shape[:dim], count, *buffer.shape[dim:]).movedim(dim, 0)
            if buffer.datatype is Datatype.BF16:
                rows = rows.view(torch.int16)
            columns.append(np.ascontiguousarray(rows.numpy()).reshape(count, math.prod(buffer.shape)).view(np.uint8))
        data = (columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)).tobytes()
        width = self.nbytes
        return [data[i * width : (i + 1) * width] for i in range(count)], finite

    def poisoned(self, before: bytes, after: bytes) -> str | None:
        """Name the first buffer in which an element became NaN or infinite; None where none did.

        An infinity that was there before is no fault: a running minimum starts at one.
        """
        for buffer, old, new in zip(self.buffers, self.join([before]), self.join([after]), strict=True):
            if buffer.datatype.kind == "float" and bool(
                (new.isnan() & ~old.isnan() | new.isinf() & old.isfinite()).any()
            ):
                return buffer.name
        return None


def _batched_shape(buffer: StateBuffer, count: int) -> tuple[int, ...]:
    if buffer.batch_dim is None:
        return buffer.shape
    size = buffer.shape[buffer.batch_dim] * count
    return (*buffer.shape[: buffer.batch_dim], size, *buffer.shape[buffer.batch_dim + 1 :])
