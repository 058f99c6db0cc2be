"""The outputs of a response: those that were asked for, as JSON or bytes after it, as tensors or classes."""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from carryover.api.json import encode, in_parts
from carryover.api.v2.schemas import InferResponse, Output, OutputParameters, OutputTensor
from carryover.api.v2.tensors import BITS
from carryover.errors import InvalidInputError, UnsupportedError
from carryover.runtime.datatypes import Array, Datatype
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.repository import Model

_PART = 64 * 1024
"""Elements that are encoded at a time."""


def requested(model: Model, asked: Sequence[Output], *, binary: bool) -> list[Output]:
    """Return the outputs to give, each with `binary_data` set; `binary` is for those that do not say it themselves.

    Raises:
        InvalidInputError: in Triton's words where it has some.

    """
    if asked:
        return _checked(model, asked, binary=binary)
    known = _all_outputs.setdefault(model, {})
    if binary not in known:
        known[binary] = _checked(model, [Output(name=spec.name) for spec in model.outputs], binary=binary)
    return known[binary]


_all_outputs: WeakKeyDictionary[Model, dict[bool, list[Output]]] = WeakKeyDictionary()
"""What a request gets that names no outputs, by model and by whether it wants them as bytes."""


def _checked(model: Model, asked: Sequence[Output], *, binary: bool) -> list[Output]:
    specs = {spec.name: spec for spec in model.outputs}
    given: dict[str, Output] = {}
    for output in asked:
        name, parameters = output.name, output.parameters or OutputParameters()
        if name not in specs:
            raise InvalidInputError(
                f"unexpected inference output {name!r:.80} for model '{model.name}'; the outputs are "
                + ",".join(f"'{known}'" for known in specs)
            )
        if name in given:
            raise InvalidInputError(f"output '{name}' already exists in request")
        if parameters.shared_memory_region is not None:
            raise UnsupportedError(f"output '{name}': this service does not support shared memory")
        if parameters.classification and specs[name].datatype is Datatype.BOOL:
            raise InvalidInputError("class result not available for output due to unsupported type 'BOOL'")
        wanted = binary if parameters.binary_data is None else parameters.binary_data
        given[name] = output.model_copy(update={"parameters": parameters.model_copy(update={"binary_data": wanted})})
    return list(given.values())


def encode_response(
    head: InferResponse,
    model: Model,
    asked: Sequence[Output],
    specs: Sequence[TensorSpec],
    arrays: Mapping[str, Array],
) -> tuple[int, bytes]:
    """Put a response's outputs after its head; `asked` is what `requested` returned.

    Returns:
        The length of the JSON where bytes follow it, else 0; and all of it.

    """
    datatypes = {spec.name: spec.datatype for spec in specs}
    described: list[OutputTensor] = []
    tail: list[memoryview] = []
    for output in asked:
        found, datatype, parameters = arrays[output.name], datatypes[output.name], output.parameters
        values: Array | list[str] = np.ascontiguousarray(found).reshape(-1)
        one = OutputTensor(name=output.name, datatype=datatype.name, shape=found.shape)
        if parameters and parameters.classification:
            one["shape"], values = _classified(found, parameters.classification, model.labels)
            one["datatype"] = "BYTES"
        if parameters and parameters.binary_data:
            tail.append(_raw(datatype, values))
            one["parameters"] = {"binary_data_size": tail[-1].nbytes}
        else:
            one["data"] = in_parts(values, _PART)
        described.append(one)
    head["outputs"] = described
    json = encode(head)
    return (len(json), b"".join([json, *tail])) if tail else (0, json)


def _raw(datatype: Datatype, values: Array | list[str]) -> memoryview:
    """The bytes of a tensor's elements; each string has its length before it, in 4 bytes."""
    if isinstance(values, list):
        return memoryview(b"".join(len(text).to_bytes(4, "little") + text for text in map(str.encode, values)))
    return (values if datatype not in BITS else (values.view(np.uint32) >> 16).astype(BITS[datatype])).data


def _classified(values: Array, count: int, labels: Sequence[str] | None) -> tuple[list[int], list[str]]:
    """The highest values along the last axis, as `value:index` or `value:index:label`.

    Of equal ones the lower index comes first; NaN comes last.

    Source: Triton's classification extension.
    """
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    missing = np.isnan(rows) if rows.dtype.kind == "f" else np.zeros(rows.shape, bool)
    compared = np.where(missing, rows.dtype.type(0), rows)[:, ::-1]
    # The last key counts first: numbers before NaN, then by value; reversed, so that a lower index comes first.
    ascending = np.lexsort((compared, ~missing[:, ::-1]), axis=1)
    best = (rows.shape[1] - 1 - ascending)[:, ::-1][:, :count]
    texts = [
        f"{value!s}:{index}" if labels is None else f"{value!s}:{index}:{labels[index]}"
        for row, indices in zip(rows, best, strict=True)
        for value, index in zip(row[indices], indices.tolist(), strict=True)
    ]
    return [*values.shape[:-1], best.shape[1]], texts
