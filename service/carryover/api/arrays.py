"""JSON values to arrays, by a datatype."""

import math
import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from carryover.api.numbers import MAX_DIMENSIONS, Numbers
from carryover.errors import InvalidInputError
from carryover.runtime.datatypes import Array, Datatype

# A number that is too large for its datatype becomes infinite, which is looked for: numpy need not warn of it.
warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)

# What rounds to infinity in bfloat16: half a unit in the last place above its largest number.
_BF16_LIMIT = np.float32(float.fromhex("0x1.ffp127"))
# All bits of the exponent: NaN or an infinity.
_BF16_EXPONENT = np.uint16(0x7F80)

_LARGEST_EXACT = 2**53 - 1
"""Up to this, FP64 has all whole numbers."""

_ALLOWED: dict[str, set[type]] = {"float": {float, int}, "int": {int, float}, "bool": {bool}}
_PLAIN = (Datatype.FP16, Datatype.FP32, Datatype.FP64)
_EXPECTED = {"float": "a number", "int": "a whole number", "bool": "true or false"}
_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    Numbers: "a list",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
}


def array(datatype: Datatype, values: list[Any] | Numbers, where: str, suffix: str = "") -> Array:
    """Turn a rectangular nest of lists into an array of its own shape.

    `where` and `suffix` name the place in messages: `where[3].suffix[0]`.

    Raises:
        InvalidInputError: ragged, another type, out of the datatype's range, or not finite.

    """
    if type(values) is Numbers:
        return _of_numbers(datatype, values, where, suffix)
    level: list[Any] = values  # type: ignore[assignment]
    shape = [len(values)]
    kinds = set(map(type, level))
    while kinds == {list} and len(shape) <= MAX_DIMENSIONS:
        lengths = set(map(len, level))
        if len(lengths) != 1:
            raise InvalidInputError(_ragged(level, shape, where, suffix))
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
        kinds = set(map(type, level))
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidInputError(f"{where} has a shape of more than {MAX_DIMENSIONS} dimensions")
    allowed = _ALLOWED[datatype.kind]
    if not kinds <= allowed:
        if Numbers in kinds and kinds <= {list, Numbers}:
            return _joined(datatype, level, shape, where, suffix)
        index = next(i for i, leaf in enumerate(level) if type(leaf) not in allowed)
        raise InvalidInputError(
            f"{_place(index, shape, where, suffix)} must be {_EXPECTED[datatype.kind]}, not {called(level[index])}"
        )
    return flat(datatype, level, shape, where, suffix).reshape(shape)


def plain(datatype: Datatype, values: Any) -> Array | None:
    """Return the array that `array` makes of numbers in a nest of lists, and of nothing else.

    None where it would have something to say, and of some datatypes.
    """
    whole = datatype is Datatype.INT64  # to which numpy would cut numbers off, if it were asked to
    if not whole and datatype not in _PLAIN:
        return None
    try:
        found = np.array(values, None if whole else datatype.numpy)
    except (ValueError, OverflowError):
        return None
    fits = found.dtype == datatype.numpy if whole else _finite(datatype, found)
    return found if fits and found.size and 0 < found.ndim <= MAX_DIMENSIONS else None


def _of_numbers(datatype: Datatype, numbers: Numbers, where: str, suffix: str) -> Array:
    """Turn numbers into an array of their own shape, piece by piece."""
    shape, result, end = numbers.shape, np.empty(math.prod(numbers.shape), datatype.numpy), 0
    if datatype.kind == "bool":
        given = orjson.loads(numbers.parts[0][1].partition(b",")[0])
        raise InvalidInputError(f"{_place(0, shape, where, suffix)} must be {_EXPECTED['bool']}, not {called(given)}")
    for part, text in numbers.parts:
        start, end = end, end + part.size
        if _is_exact(datatype, part):
            result[start:end] = part
        else:
            result[start:end] = flat(datatype, orjson.loads(b"[%b]" % text), shape, where, suffix, first=start)
    return result.reshape(shape)


def _is_exact(datatype: Datatype, part: Array) -> bool:
    """Whether numbers are of a datatype, and FP64 has them as they were written, or as near as the datatype does."""
    if datatype.kind == "float":
        return _finite(datatype, part.astype(datatype.numpy))
    limits = np.iinfo(datatype.numpy)  # type: ignore[type-var]
    low, high = max(limits.min, -_LARGEST_EXACT), min(limits.max, _LARGEST_EXACT)
    return bool(((part >= low) & (part <= high) & (part == np.trunc(part))).all())


def _joined(datatype: Datatype, parts: list[Any], shape: Sequence[int], where: str, suffix: str) -> Array:
    """Turn lists and numbers, which are what a level of a nest consists of, into one array."""
    arrays: list[Array] = []
    for index, part in enumerate(parts):
        try:
            arrays.append(array(datatype, part, ""))
        except InvalidInputError:
            array(datatype, part, _place(index, shape, where, suffix))
        if arrays[index].shape != arrays[0].shape:
            raise InvalidInputError(
                f"{_place(index, shape, where, suffix)} has shape {list(arrays[index].shape)} where its neighbours "
                f"have {list(arrays[0].shape)}: the lists must be of equal length"
            )
    return np.stack(arrays).reshape(*shape, *arrays[0].shape)


def flat(  # noqa: PLR0913 - only the first two say what it becomes
    datatype: Datatype, leaves: list[Any], shape: Sequence[int], where: str, suffix: str = "", *, first: int = 0
) -> Array:
    """Turn numbers whose types are already right into a flat array.

    All else only serves to name places: they are those from `first` on in an array of a `shape`.
    """
    if datatype.kind == "int" and float in map(type, leaves):
        index = next((i for i, leaf in enumerate(leaves) if leaf != leaf // 1), None)
        if index is not None:
            raise InvalidInputError(
                f"{_place(first + index, shape, where, suffix)} must be a whole number, not {leaves[index]}"
            )
        leaves = list(map(int, leaves))
    try:
        result = np.array(leaves, datatype.numpy)
        if datatype.kind != "float" or _finite(datatype, result):
            return result
    except OverflowError:
        pass
    index = next(i for i, leaf in enumerate(leaves) if not _fits(datatype, leaf))
    shown = f"{leaves[index]!s:.40}"
    raise InvalidInputError(
        f"{_place(first + index, shape, where, suffix)} is {shown}, which is not a finite {datatype.name} number"
        if datatype.kind == "float"
        else f"{_place(first + index, shape, where, suffix)} is {shown}, which is out of the range of {datatype.name}"
    )


def require_finite(datatype: Datatype, given: Array, where: str) -> None:
    """Raise unless all numbers are finite; those of BF16 are given as bits.

    Raises:
        InvalidInputError: with the place of the first that is not.

    """
    if datatype.kind != "float":
        return
    finite = np.isfinite(given) if datatype is not Datatype.BF16 else given & _BF16_EXPONENT != _BF16_EXPONENT
    if not finite.all():
        index = int(finite.argmin())
        value = given.reshape(-1)[index]
        if datatype is Datatype.BF16:
            value = (value.astype(np.uint32) << 16).view(np.float32)
        place = ",".join(str(int(i)) for i in np.unravel_index(index, given.shape))
        raise InvalidInputError(f"{where}[{place}] is {value!s:.40}, which is not a finite {datatype.name} number")


def _finite(datatype: Datatype, array: Array) -> bool:
    if datatype is Datatype.BF16:
        return bool((np.abs(array) < _BF16_LIMIT).all())
    return bool(np.count_nonzero(np.isfinite(array)) == array.size)


def _fits(datatype: Datatype, leaf: float) -> bool:
    try:
        return _finite(datatype, np.array(leaf, datatype.numpy))
    except OverflowError:
        return False


def _ragged(level: list[Any], shape: list[int], where: str, suffix: str) -> str:
    first = len(level[0])
    index = next(i for i, part in enumerate(level) if len(part) != first)
    return (
        f"{_place(index, shape, where, suffix)} has {len(level[index])} elements where its neighbours have {first}: "
        "the lists must be of equal length"
    )


def _place(index: int, shape: Sequence[int], where: str, suffix: str) -> str:
    first, *rest = (int(i) for i in np.unravel_index(index, shape))
    return f"{where}[{first}]{suffix}" + "".join(f"[{i}]" for i in rest)


def called(value: object) -> str:
    """Return what a JSON value is called in a sentence."""
    return _JSON_NAMES.get(type(value), f"{value!s:.40}")
