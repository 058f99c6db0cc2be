"""The numbers of large JSON bodies, read straight into arrays.

A parser that makes Python objects holds up the whole worker for as long as it reads. simdjson does not: it parses, and
copies numbers, while others run. Only what is plain is taken here, a rectangular nest of numbers where one is expected;
of everything else, errors included, the general parser has the last word.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import simdjson

from carryover.api.arrays import MAX_DIMENSIONS
from carryover.api.inbound import Inbound
from carryover.api.json import LARGE_BODY, require_media_type
from carryover.api.response import JSON
from carryover.runtime.datatypes import Array, Datatype

_PIECE = 1024 * 1024
_MAX_ENTRIES = 1024
"""Inputs and the like of a plain request."""
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[],"))


def of_large_body(inbound: Inbound, field: str, datatype: Datatype) -> Array | None:
    """Return the `rectangle` in a request's body; None of a small one, which the general parser reads soon enough.

    Raises:
        MediaTypeError: the body is not called JSON.

    """
    if len(inbound.body) <= LARGE_BODY:
        return None
    require_media_type(inbound, JSON)
    return rectangle(inbound.body, field, datatype)


def rectangle(data: bytes, field: str, datatype: Datatype) -> Array | None:
    """Return the array in `{"field": [[1, 2], [3, 4]]}`; None of a body that is not plain, or does not fit a datatype.

    The lists are rectangular where brackets and commas stand as the sizes of the first of them say.
    """
    body = _parsed(data)
    if body is None or [*body] != [field]:
        return None
    values = body[field]
    shape: list[int] = []
    held: Any = values
    while isinstance(held, simdjson.Array) and len(held) and len(shape) < MAX_DIMENSIONS:
        shape.append(len(held))
        held = held[0]
    found = _numbers(values, datatype)
    if found is None or found.size != math.prod(shape):
        return None
    structure = b"".join(
        data[start : start + _PIECE].translate(None, _NO_STRUCTURE) for start in range(0, len(data), _PIECE)
    )
    return found.reshape(shape) if structure == _structure(shape) else None


def tensors(data: bytes) -> tuple[bytes, Mapping[int, Array]] | None:
    """Take the flat `data` of the inputs out of a request of the Open Inference Protocol.

    Returns:
        The request with one number in the place of each, and the arrays by the positions of their inputs. None of a
        request that is not plain.

    """
    body = _parsed(data)
    if body is None or not isinstance(inputs := body.get("inputs"), simdjson.Array):
        return None
    if any(isinstance(value := body[key], simdjson.Array) and len(value) > _MAX_ENTRIES for key in body):
        return None
    found: dict[int, Array] = {}
    given: list[Any] = []
    for position, tensor in enumerate(inputs):
        if not isinstance(tensor, simdjson.Object) or len({*tensor}) != len(tensor):
            return None
        entry = {key: _object(tensor[key]) for key in tensor if key != "data"}
        if "data" in tensor:
            array = _numbers(tensor["data"], _DATATYPES.get(str(entry.get("datatype"))))
            if array is None:
                return None
            found[position], entry["data"] = array, [0]
        given.append(entry)
    rest = {key: _object(body[key]) for key in body if key != "inputs"} | {"inputs": given}
    # As many brackets as there are lists: those in `data` hold no further ones.
    return (orjson.dumps(rest), found) if data.count(b"[") == _brackets(rest) else None


_DATATYPES = {datatype.name: datatype for datatype in Datatype}


def _parsed(data: bytes) -> simdjson.Object | None:
    """Return a JSON object that has no field twice; None of anything else."""
    try:
        body = simdjson.Parser().parse(data)
    except (ValueError, RuntimeError):  # whatever is wrong, the general parser says it
        return None
    if not isinstance(body, simdjson.Object) or data[:1] != b"{" or len({*body}) != len(body):
        return None
    return body


def _numbers(values: Any, datatype: Datatype | None) -> Array | None:
    """Return the numbers in a nest of lists, flat; None where there are others, or they do not fit the datatype."""
    if not isinstance(values, simdjson.Array) or datatype in (None, Datatype.BF16, Datatype.BOOL):
        return None
    wanted = datatype.numpy
    try:
        if datatype.kind == "float":
            with np.errstate(over="ignore"):
                found = np.frombuffer(values.as_buffer(of_type="d"), np.float64).astype(wanted)
            return found if np.isfinite(found).all() else None
        if datatype is Datatype.UINT64:
            return np.frombuffer(values.as_buffer(of_type="u"), wanted)
        numbers = np.frombuffer(values.as_buffer(of_type="i"), np.int64)
    except (TypeError, ValueError):
        return None
    limits = np.iinfo(wanted)  # type: ignore[type-var]
    fits = not numbers.size or (limits.min <= numbers.min() and numbers.max() <= limits.max)
    return numbers.astype(wanted) if fits else None


def _structure(shape: Sequence[int]) -> bytes:
    """Return the brackets and commas of a nest of lists."""
    *outer, last = shape
    structure = b"[" + b"," * (last - 1) + b"]"
    for size in reversed(outer):
        structure = b"[" + b",".join([structure] * size) + b"]"
    return structure


def _object(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _brackets(value: Any) -> int:
    """Count the opening brackets of a value in JSON."""
    if isinstance(value, str):
        return value.count("[")
    if isinstance(value, dict):
        return sum(map(_brackets, value)) + sum(map(_brackets, value.values()))
    return 1 + sum(map(_brackets, value)) if isinstance(value, list) else 0
