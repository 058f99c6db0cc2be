"""A session's state as a safetensors file: what `GET …/state` gives and `PUT …/state` takes.

Source of the format: https://github.com/huggingface/safetensors#format
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from carryover.errors import (
    ForeignStateError,
    InputRejectedError,
    InvalidInputError,
    ModelFailedError,
    NonFiniteStateError,
)
from carryover.runtime.deep_stack import deep
from carryover.runtime.layout import Contents, describe
from carryover.runtime.report import first_line
from carryover.runtime.version import Call, ModelVersion

_LENGTH_BYTES = 8
_STEP_DIGITS = 18
_LARGEST = 2**31
Trial = Callable[[ModelVersion, Call], None]
"""Runs a call and discards its result, or raises what it raises."""
_FIELDS = 64
"""Fields and sizes of a tensor in a header, at the most."""
_SPARE = 100
"""Tensors too many that are named in the sentence that rejects them."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file holds: tensors by buffer name; the step and the fingerprint, where the file says them.

    `origin` is the model and the version that the file says it is from.
    """

    tensors: Mapping[str, Tensor]
    step: int
    fingerprint: bytes | None
    origin: tuple[str, str] = ("", "")

    @classmethod
    @deep
    def parse(cls, data: bytes, most: int) -> "Snapshot":
        """Read a file.

        Raises:
            InvalidInputError: it is not a safetensors file, says a step or fingerprint that cannot be, or holds far
                more than `most` tensors, which is what a state may have.

        """
        header = _header(data, most)
        if len(header) > 2 * most + _SPARE:
            raise InvalidInputError(f"the file holds {len(header)} tensors; the state of the model has at most {most}")
        try:
            tensors = safetensors.torch.load(data)
        except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise InvalidInputError(f"the body is not a safetensors file: {first_line(error):.200}") from None
        said = header.get("__metadata__") or {}
        step, fingerprint = said.get("step", "0"), said.get("fingerprint")
        if not (step.isascii() and step.isdecimal() and len(step) <= _STEP_DIGITS):
            raise InvalidInputError(f"the file's metadata say step {step!r:.80}, which is no step")
        origin = said.get("model", ""), said.get("version", "")
        try:
            return cls(tensors, int(step), None if fingerprint is None else bytes.fromhex(fingerprint), origin)
        except ValueError:
            raise InvalidInputError(f"the file's metadata say fingerprint {fingerprint!r:.80}, which is none") from None

    def newer(self, version: ModelVersion) -> bool:
        """Whether the file says that it is from a higher version of the same model."""
        model, number = self.origin
        known = number.isascii() and number.isdecimal() and len(number) <= _STEP_DIGITS
        return model == version.name and known and int(number) > version.number


def _header(data: bytes, most: int) -> dict[str, Any]:
    """The file's header; its shapes are checked before torch sees them, which some numbers crash."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    fields = data.count(b",", _LENGTH_BYTES, _LENGTH_BYTES + length)
    if fields > _FIELDS * (2 * most + _SPARE):
        raise InvalidInputError(
            f"the file's header has {fields} fields and sizes; the state of the model has at most {most} tensors"
        )
    try:
        header = orjson.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        if all(type(size) is int and 0 <= size < _LARGEST for shape in shapes for size in shape):
            return dict(header)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    raise InvalidInputError("the body is not a safetensors file: its header is not one")


def dump(version: ModelVersion, state: bytes, step: int) -> bytes:
    """Return the file of a session's state."""
    names = [buffer.name for buffer in version.layout.buffers]
    tensors = {
        name: tensor.contiguous()
        for name, tensor in zip(names, version.layout.join([state]), strict=True)
        if tensor is not None
    }
    said = {
        "model": version.name,
        "version": version.version,
        "fingerprint": version.fingerprint.hex(),
        "step": str(step),
    }
    return _ordered(safetensors.torch.save(tensors, said))


def _ordered(file: bytes) -> bytes:
    """Return a file with its metadata by name: safetensors writes them in another order each time."""
    start = _LENGTH_BYTES + int.from_bytes(file[:_LENGTH_BYTES], "little")
    header = orjson.loads(file[_LENGTH_BYTES:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    said = orjson.dumps(header)
    said += b" " * (-len(said) % _LENGTH_BYTES)  # the tensors are aligned
    return b"".join([len(said).to_bytes(_LENGTH_BYTES, "little"), said, file[start:]])


@deep
def load(version: ModelVersion, snapshot: Snapshot, trial: Trial, *, migrate: bool = False) -> bytes:
    """Return a file's state as a session's bytes.

    A buffer that differs from its registered shape may be one that grows: then the model itself must take the state,
    in a `trial`.

    Raises:
        ForeignStateError: it belongs to another fingerprint, and `migrate` is not asked for.
        InvalidInputError: names, shapes or datatypes are not those of the model's state.
        NonFiniteStateError: it holds NaN or infinities that the initial state does not.

    """
    if snapshot.fingerprint not in (None, version.fingerprint) and not migrate:
        raise ForeignStateError(
            f"the state belongs to the fingerprint {snapshot.fingerprint.hex() if snapshot.fingerprint else ''}, and "
            f"version {version.version} of model {version.name!r} has {version.fingerprint.hex()}; "
            "?migrate=true migrates it where names, shapes and datatypes agree"
        )
    if snapshot.fingerprint != version.fingerprint and snapshot.newer(version):
        raise ForeignStateError(
            f"the state is from version {snapshot.origin[1]:.20} of model {version.name!r}, and no session goes back "
            f"to a lower one, such as {version.version}"
        )
    buffers = version.layout.buffers
    required = {buffer.name for buffer in buffers if buffer.registered is not None}
    known = {buffer.name for buffer in buffers}
    if not required <= snapshot.tensors.keys() <= known:
        raise InvalidInputError(f"the file holds {sorted(snapshot.tensors)}; the state of the model is {sorted(known)}")
    grown = False
    for buffer in buffers:
        held = _contents(buffer.name, snapshot.tensors.get(buffer.name))
        if held == buffer.registered:
            continue
        if buffer.registered and held and not _may_grow(held, buffer.registered):
            raise InvalidInputError(
                f"the state buffer {buffer.name!r} is {_called(held)} in the file and "
                f"{_called(buffer.registered)} in the model"
            )
        grown = True
    state = version.layout.split([snapshot.tensors.get(buffer.name) for buffer in buffers], 1)[0][0]
    if (name := version.layout.non_finite(version.initial_state, state)) is not None:
        raise NonFiniteStateError(f"the state buffer {name!r} holds NaN or an infinity in the file")
    if grown:
        try:
            trial(version, Call(version.zeros(), state))
        except (InputRejectedError, ModelFailedError):
            raise InvalidInputError(
                "the model cannot go on from this state: the shapes of its buffers do not fit it"
            ) from None
    return state


def _contents(name: str, tensor: Tensor | None) -> Contents | None:
    try:
        return describe(tensor)
    except KeyError:
        dtype = torch.float32 if tensor is None else tensor.dtype
        raise InvalidInputError(f"the state buffer {name!r} is {dtype} in the file, which no state buffer is") from None


def _may_grow(held: Contents, registered: Contents) -> bool:
    return held.datatype is registered.datatype and len(held.shape) == len(registered.shape) > 0


def _called(contents: Contents) -> str:
    return f"{contents.datatype.name} {list(contents.shape)}"
