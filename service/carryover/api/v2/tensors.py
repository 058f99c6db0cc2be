"""The tensors of a request: from JSON, or from the bytes after it.

Source of the binary form: Triton's binary tensor data extension. Little-endian, row-major, no padding.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from carryover.api.arrays import array, require_finite
from carryover.api.numbers import Numbers
from carryover.api.v2.schemas import Input
from carryover.errors import InvalidInputError, UnsupportedError
from carryover.runtime.datatypes import Array, Datatype
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.repository import Model

BITS = {Datatype.BF16: np.dtype("<u2")}
"""What a datatype is in binary, where that differs from its `.numpy`."""


def wire(datatype: Datatype) -> "np.dtype[np.generic]":
    """Return the type of a datatype's elements in binary."""
    return BITS.get(datatype, datatype.numpy)


def inputs_of(model: Model, given: Sequence[Input], data: bytes, offset: int) -> dict[str, Array]:
    """Turn a request's inputs into arrays; those that are binary lie in `data` from `offset` on.

    Binary ones are read-only views of `data`.

    Raises:
        InvalidInputError: in Triton's words where it has some.

    """
    specs = {spec.name: spec for spec in model.inputs}
    tail = _Tail(model, data, offset)
    arrays: dict[str, Array] = {}
    for position, tensor in enumerate(given):
        spec = _spec(model, specs, tensor, arrays)
        size = None if tensor.parameters is None else tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise InvalidInputError(
                f"input '{tensor.name}' must have either 'data', or 'binary_data_size' in its 'parameters'"
            )
        arrays[tensor.name] = (
            _from_json(spec, tensor, f"inputs[{position}].data")
            if size is None
            else tail.take(spec, tensor.shape, size)
        )
    tail.finish()
    _complete(model, arrays)
    return arrays


def raw_input_of(model: Model, data: bytes) -> dict[str, Array]:
    """Turn a body that is nothing but one tensor's bytes into that tensor, its shape deduced from the size."""
    spec = model.inputs[0]
    if len(model.inputs) != 1:
        raise InvalidInputError(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(model.inputs)} inputs in "
            f"'{model.name}' model configuration"
        )
    if spec.shape.count(-1) > 1:
        raise InvalidInputError(
            f"The shape of the raw input '{spec.name}' can not be deduced because there are more than one "
            "variable-sized dimension"
        )
    one = math.prod(size for size in spec.shape if size != -1) * wire(spec.datatype).itemsize
    if len(data) % one or not data or (-1 not in spec.shape and len(data) != one):
        raise InvalidInputError(
            f"input byte size mismatch for input '{spec.name}' for model '{model.name}'. Expected "
            f"{'a multiple of ' if -1 in spec.shape else ''}{one}, got {len(data)}"
        )
    shape = [len(data) // one if size == -1 else size for size in spec.shape]
    return {spec.name: _Tail(model, data, 0).take(spec, shape, len(data))}


def _spec(model: Model, specs: Mapping[str, TensorSpec], tensor: Input, before: Mapping[str, Array]) -> TensorSpec:
    """What the model says of an input, if the input agrees with it."""
    name = f"{tensor.name!r:.80}"
    spec = specs.get(tensor.name)
    if spec is None:
        raise InvalidInputError(
            f"unexpected inference input {name} for model '{model.name}'; the inputs are {_names(specs)}"
        )
    if tensor.name in before:
        raise InvalidInputError(f"input {name} already exists in request")
    if tensor.parameters and tensor.parameters.shared_memory_region is not None:
        raise UnsupportedError(f"input {name}: this service does not support shared memory")
    if tensor.datatype != spec.datatype.name:
        raise InvalidInputError(
            f"inference input {name} data-type is {tensor.datatype!r:.20}, but model '{model.name}' expects "
            f"'{spec.datatype.name}'"
        )
    if len(tensor.shape) != len(spec.shape) or any(
        not got or want not in (-1, got) for got, want in zip(tensor.shape, spec.shape, strict=True)
    ):
        raise InvalidInputError(
            f"unexpected shape for input {name} for model '{model.name}'. Expected {_sizes(spec.shape)}, got "
            f"{_sizes(tensor.shape)}; -1 stands for any size of at least 1"
        )
    return spec


def _complete(model: Model, arrays: Mapping[str, Array]) -> None:
    """Raise unless every input is given, all of the same batch size."""
    if len(arrays) == 1 == len(model.inputs):
        return
    missing = [spec.name for spec in model.inputs if spec.name not in arrays and not spec.optional]
    if missing:
        raise InvalidInputError(
            f"expected {len(model.inputs)} inputs but got {len(arrays)} inputs for model '{model.name}'. Got input(s) "
            f"[{_names(arrays)}], but missing required input(s) [{_names(missing)}]. Please provide all required "
            "input(s)."
        )
    batched = [spec for spec in model.inputs if spec.batch_dim is not None and spec.name in arrays]
    rows = {spec.name: arrays[spec.name].shape[spec.batch_dim or 0] for spec in batched}
    first = next(iter(rows.values()), 0)
    for name, count in rows.items():
        if count != first:
            raise InvalidInputError(
                f"input '{name}' batch size does not match other inputs for '{model.name}': it is {count}, not {first}"
            )


def _from_json(spec: TensorSpec, tensor: Input, where: str) -> Array:
    found = _nested(spec, tensor, tensor.data or [], where)
    if found.shape != tuple(tensor.shape) and found.shape != (math.prod(tensor.shape),):
        raise InvalidInputError(
            f"Failed to parse 'data' field: shape does not match true shape of 'data' field: input "
            f"'{tensor.name}' has shape {_sizes(tensor.shape)}, its data {_sizes(found.shape)}"
        )
    return found.reshape(tensor.shape)


def _nested(spec: TensorSpec, tensor: Input, values: list[Any] | Numbers, where: str) -> Array:
    if (depth := _depth(values)) not in (1, len(tensor.shape)):
        raise InvalidInputError(
            f"Failed to parse 'data' field: shape does not match true shape of 'data' field: input '{tensor.name}' has "
            f"shape {_sizes(tensor.shape)}, its data is nested {depth} deep; it may be flat"
        )
    return array(spec.datatype, values, where) if values else np.empty(0, spec.datatype.numpy)


def _depth(values: Any) -> int:
    depth = 0
    while type(values) is list:
        values = values[0] if values else None
        depth += 1
    return depth + len(values.shape) if type(values) is Numbers else depth


class _Tail:
    """The bytes after a request's JSON, from which the inputs take theirs one after another."""

    def __init__(self, model: Model, data: bytes, offset: int) -> None:
        self._model = model
        self._data = data
        self._offset = offset

    def take(self, spec: TensorSpec, shape: Sequence[int], size: int) -> Array:
        """Return the next `size` bytes as a tensor of this shape: a view that is read-only, but for BOOL."""
        element, count = wire(spec.datatype), math.prod(shape)
        if size != count * element.itemsize:
            raise InvalidInputError(
                f"input byte size mismatch for input '{spec.name}' for model '{self._model.name}'. Expected "
                f"{count * element.itemsize}, got {size}"
            )
        start, self._offset = self._offset, self._offset + size
        if self._offset > len(self._data):
            raise InvalidInputError(
                f"unexpected size for input '{spec.name}', expecting {self._offset - len(self._data)} additional bytes "
                f"for model '{self._model.name}'"
            )
        values: Array = np.frombuffer(self._data, element, count, start)
        if spec.datatype is Datatype.BOOL:
            # A byte that is neither 0 nor 1 is no boolean, whatever reads it next.
            values = values.view(np.uint8) != 0
        values = values.reshape(shape)
        require_finite(spec.datatype, values, f"input '{spec.name}'")
        return values

    def finish(self) -> None:
        """Raise unless all was taken."""
        if self._offset != len(self._data):
            raise InvalidInputError(
                f"unexpected additional input data for model '{self._model.name}': {len(self._data) - self._offset} "
                "bytes more than the inputs' binary_data_size say"
            )


def _names(names: Mapping[str, object] | Sequence[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


def _sizes(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
