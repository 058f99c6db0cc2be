"""A session's state as bytes: the raw little-endian contents of its state buffers, one after the other.

As long as every buffer has the shape it was registered with, there is nothing else: the state takes exactly
`Layout.nbytes`. A state in which a buffer has grown, or is None, or was, starts with a table: for each buffer its
datatype and number of dimensions (one byte each; 255 and 0 for None), and its dimensions (four bytes each). Should such
a state happen to take exactly `Layout.nbytes`, one byte more is put behind it: its length always distinguishes the two.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from carryover.errors import ModelFailedError
from carryover.runtime.datatypes import Array, Datatype, of_tensor

_CODES = list(Datatype)
_NONE = 255
_BF16_EXPONENT = np.int16(0x7F80)
"""All bits of the exponent: NaN or an infinity."""


@dataclass(frozen=True)
class Contents:
    """What one buffer holds in one session: None, or a datatype and a shape."""

    datatype: Datatype
    shape: tuple[int, ...]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.datatype.carrier.itemsize


@dataclass(frozen=True, slots=True)
class StateBuffer:
    """One state buffer of a model.

    `registered` is what it holds at step 0. `batch_dim`, where the manifest names it, is the axis along which sessions
    are batched; or it is `shared`, and sessions are batched that have one value of it.
    """

    name: str
    registered: Contents | None
    batch_dim: int | None
    shared: bool = False


class _Single:
    """The only state buffer of a layout, where a batch of sessions lies in memory as their bytes do in a row."""

    def __init__(self, contents: Contents, dim: int | None) -> None:
        self._datatype = contents.datatype
        self._nbytes = contents.nbytes
        self._shape = contents.shape
        self._dim = dim or 0

    @classmethod
    def of(cls, buffer: StateBuffer) -> "_Single | None":
        """Return a buffer as one that is plain; None if it is not."""
        held, dim = buffer.registered, buffer.batch_dim
        if held is None or not held.nbytes or held.datatype is Datatype.BF16 or buffer.shared:
            return None
        return cls(held, dim) if math.prod(held.shape[:dim]) == 1 or dim is None else None

    def join(self, states: Sequence[bytes], count: int) -> Tensor:
        """Batch so many sessions: a fresh tensor."""
        values = torch.frombuffer(bytearray(b"".join(states)), dtype=self._datatype.torch)
        return values.view(self._batch(count))

    def split(self, tensor: Tensor | None, count: int) -> tuple[list[bytes], bool] | None:
        """Split a batch into each session's bytes, and say whether all are finite; None if it is not as it was."""
        if tensor is None or tensor.dtype is not self._datatype.torch or tensor.shape != self._batch(count):
            return None
        array, width = tensor.numpy(force=True), self._nbytes
        data = array.tobytes()
        states = [data] if count == 1 else [data[i * width : (i + 1) * width] for i in range(count)]
        return states, all_finite(array, self._datatype)

    def _batch(self, count: int) -> tuple[int, ...]:
        """The shape of so many sessions."""
        shape, dim = self._shape, self._dim
        return shape if count == 1 else (*shape[:dim], count * shape[dim], *shape[dim + 1 :])


class Layout:
    """Where each state buffer lies in a session's bytes."""

    def __init__(self, buffers: Sequence[StateBuffer]) -> None:
        self.buffers = tuple(buffers)
        self._registered = tuple(buffer.registered for buffer in buffers)
        self.nbytes = sum(contents.nbytes for contents in self._registered if contents)
        self.absent = None in self._registered
        self.batched = bool(buffers) and all(buffer.batch_dim is not None or buffer.shared for buffer in buffers)
        self.shares = any(buffer.shared for buffer in buffers)
        self._single = _Single.of(self.buffers[0]) if len(buffers) == 1 else None

    def complete(self, state: bytes) -> bool:
        """Whether a session's bytes are all there: as many as their table, or the registered shapes, say."""
        if len(state) == self.nbytes:
            return True
        try:
            contents, start = self._table(state)
        except (IndexError, struct.error):
            return False
        if any(
            registered and (held is None or held.datatype is not registered.datatype)
            for held, registered in zip(contents, self._registered, strict=True)
        ):
            return False
        width = start + sum(held.nbytes for held in contents if held)
        return len(state) == width + (width == self.nbytes)

    def contents(self, state: bytes) -> tuple[Contents | None, ...]:
        """Return what each buffer holds in a session."""
        return self._table(state)[0]

    def signature(self, state: bytes) -> bytes:
        """Return what must be equal for sessions to be batched."""
        contents, start = self._table(state)
        if not self.shares:
            return state[:start]
        parts, end = [state[:start]], start
        for buffer, held in zip(self.buffers, contents, strict=True):
            first, end = end, end + (held.nbytes if held else 0)
            parts += [state[first:end]] if buffer.shared else []
        return b"".join(parts)

    def join(self, states: Sequence[bytes], count: int | None = None) -> list[Tensor | None]:
        """Batch sessions of one `signature`: a fresh tensor for each buffer, along its `batch_dim`.

        `states` are those of `count` sessions, each by itself or, where all have the registered shapes, all in one.
        """
        single = self._single
        count = len(states) if count is None else count
        registered = len(states) * len(states[0]) == count * self.nbytes
        if single is not None and registered:
            return [single.join(states, count)]
        contents, start = (self._registered, 0) if registered else self._table(states[0])
        width = self.nbytes if registered else sum(held.nbytes for held in contents if held)
        data = b"".join(states if registered else [state[start : start + width] for state in states])
        matrix = np.frombuffer(data, np.uint8, count * width).reshape(count, width)
        tensors: list[Tensor | None] = []
        end = 0
        for buffer, held in zip(self.buffers, contents, strict=True):
            if held is None:
                tensors.append(None)
                continue
            start, end = end, end + held.nbytes
            rows = torch.from_numpy(
                matrix[: 1 if buffer.shared else None, start:end].copy().view(held.datatype.carrier)
            )
            if held.datatype is Datatype.BF16:
                rows = rows.view(torch.bfloat16)
            if buffer.batch_dim is None or count == 1:
                rows = rows.reshape(held.shape)
            else:
                # (sessions, …, n, …) → (…, sessions·n, …)
                rows = rows.reshape(count, *held.shape).movedim(0, buffer.batch_dim)
                rows = rows.flatten(buffer.batch_dim, buffer.batch_dim + 1)
            tensors.append(rows)
        return tensors

    def split(self, tensors: Sequence[Tensor | None], count: int) -> tuple[list[bytes], bool]:
        """Split a batch into sessions: the reverse of `join`.

        Returns:
            Each session's bytes, and whether every float in them is finite.

        Raises:
            ModelFailedError: `forward` left a buffer with another datatype than it was registered with, or with a batch
                axis that cannot be parted.

        """
        if self._single is not None and (plain := self._single.split(tensors[0], count)) is not None:
            return plain
        columns: list[Array] = []
        contents: list[Contents | None] = []
        finite = True
        for buffer, tensor in zip(self.buffers, tensors, strict=True):
            if tensor is None and buffer.registered is None:
                contents.append(None)
                continue
            held, rows = _part(buffer, tensor, count)
            contents.append(held)
            rows = rows.view(torch.int16) if held.datatype is Datatype.BF16 else rows
            array = np.ascontiguousarray(rows.numpy(force=True)).reshape(count, math.prod(held.shape))
            finite = finite and all_finite(array, held.datatype)
            columns.append(array.view(np.uint8))
        if tuple(contents) != self._registered:
            columns.insert(0, self._header(contents, count))
        if not columns:
            return [b""] * count, finite
        data = (columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)).tobytes()
        width = len(data) // count
        states = [data[i * width : (i + 1) * width] for i in range(count)]
        if width == self.nbytes and tuple(contents) != self._registered:
            states = [state + b"\0" for state in states]
        return states, finite

    def non_finite(self, before: bytes, after: bytes, count: int = 1) -> str | None:
        """Name the first buffer in which an element became NaN or infinite; None where none did.

        Both states are those of `count` sessions. An infinity that was there before is no fault: a running minimum
        starts at one. Where a buffer has changed its shape, it is at fault if it holds NaN, or infinity, and held none
        before. Which one that is cannot be told for several sessions: the first buffer is named.
        """
        if count > 1 and len(before) != len(after):
            return self.buffers[0].name
        for buffer, old, new in zip(self.buffers, self.join([before], count), self.join([after], count), strict=True):
            if new is None or not new.is_floating_point():
                continue
            if old is None or old.shape != new.shape:
                old = old.sum().expand(new.shape) if old is not None else new.new_zeros(new.shape)  # noqa: PLW2901
            if bool((new.isnan() & ~old.isnan() | new.isinf() & old.isfinite()).any()):
                return buffer.name
        return None

    def _table(self, state: bytes) -> tuple[tuple[Contents | None, ...], int]:
        """What each buffer holds, and where the values start."""
        if len(state) == self.nbytes:
            return self._registered, 0
        contents: list[Contents | None] = []
        offset = 0
        for _ in self.buffers:
            code, ndim = state[offset], state[offset + 1]
            offset += 2
            shape = struct.unpack_from(f"<{ndim}I", state, offset)
            offset += 4 * ndim
            contents.append(None if code == _NONE else Contents(_CODES[code], shape))
        return tuple(contents), offset

    @staticmethod
    def _header(contents: Sequence[Contents | None], count: int) -> Array:
        table = b"".join(
            bytes((_NONE, 0))
            if held is None
            else struct.pack(f"<BB{len(held.shape)}I", _CODES.index(held.datatype), len(held.shape), *held.shape)
            for held in contents
        )
        return np.tile(np.frombuffer(table, np.uint8), (count, 1))


def all_finite(array: Array, datatype: Datatype) -> bool:
    """Whether all numbers of an array are finite; those of BF16 are given as bits."""
    if datatype is Datatype.BF16:
        return not np.count_nonzero(array & _BF16_EXPONENT == _BF16_EXPONENT)
    return datatype.kind != "float" or np.count_nonzero(np.isfinite(array)) == array.size


def describe(tensor: Tensor | None) -> Contents | None:
    """Return what a tensor is as a buffer's contents; KeyError where its dtype has no name in the protocol."""
    return None if tensor is None else Contents(of_tensor(tensor), tuple(tensor.shape))


def _part(buffer: StateBuffer, tensor: Tensor | None, count: int) -> tuple[Contents, Tensor]:
    """One session's contents, and the values with the sessions first."""
    if tensor is None or (buffer.registered and tensor.dtype is not buffer.registered.datatype.torch):
        found = "None" if tensor is None else str(tensor.dtype)
        wanted = buffer.registered and buffer.registered.datatype.torch
        raise ModelFailedError(f"forward left the state buffer {buffer.name!r} as {found} where it was {wanted}")
    rows, dim = tensor[None], buffer.batch_dim
    if buffer.shared:
        rows = rows.expand(count, *tensor.shape)
    elif dim is not None:
        if tensor.ndim <= dim or tensor.shape[dim] % count:
            raise ModelFailedError(
                f"forward left the state buffer {buffer.name!r} with shape {list(tensor.shape)}, which cannot be split "
                f"between {count} sessions along batch_dim {dim}"
            )
        if count > 1:
            # (…, sessions·n, …) → (sessions, …, n, …)
            shape = tensor.shape
            rows = tensor.reshape(*shape[:dim], count, shape[dim] // count, *shape[dim + 1 :]).movedim(dim, 0)
    if buffer.registered and buffer.registered.shape == rows.shape[1:]:
        return buffer.registered, rows
    try:
        return Contents(of_tensor(tensor), tuple(rows.shape[1:])), rows
    except KeyError:
        raise ModelFailedError(f"the state buffer {buffer.name!r} is {tensor.dtype}, which cannot be stored") from None
