"""The numbers of large JSON bodies, taken out of their text and read into arrays piece by piece.

A parser of JSON holds the interpreter's lock, and so the whole worker, for as long as it reads. Pieces are read soon
enough, and others run between them. What is taken are long rectangular nests of numbers; the general parser reads the
rest, and says what is wrong with it.
"""

import math
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import simdjson
from pydantic import BaseModel

from carryover.runtime.datatypes import Array

MAX_DIMENSIONS = 32

_LONG = 256
"""Bytes of a nest of numbers that is worth taking."""
_PIECE = 256 * 1024
_SPACE = b" \t\r\n"
_PLAIN = b"0123456789+-.eE"
_OTHER = bytes(byte not in _PLAIN + _SPACE + b"[]," for byte in range(256))
"""Whether a byte is not part of a nest of numbers."""
_TOKENS = bytes.maketrans(_PLAIN, b"0" * len(_PLAIN))
_DIGIT, _OPENING, _CLOSING = b"0[]"
_NO_BRACKETS = bytes.maketrans(b"[]", b"  ")
_FIELD = re.compile(rb'[^\\]"[ \t\r\n]*:\Z')
"""What a field's name ends with; in a string, the quote would have a backslash before it."""
_NAME_END = 16
_MARK = secrets.token_hex(8)
"""What stands in the place of a nest that was taken starts with this, which no client can know."""


class Numbers(Sequence[Any]):
    """A rectangular nest of numbers, of a shape.

    Each of the `parts` is some of them one after another: as an array of FP64, and as JSON, where brackets are spaces.
    """

    __slots__ = ("parts", "shape")

    def __init__(self, shape: Sequence[int], parts: list[tuple[Array, bytes]]) -> None:
        self.shape = shape
        self.parts = parts

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Return an entry as the general parser would, but for the length of lists."""
        if not 0 <= index < len(self):
            raise IndexError
        return self.parts[0][0][0].item() if len(self.shape) == 1 else []


def taken(data: bytes) -> tuple[bytes, list[Numbers]]:
    """Take the long nests of numbers out of JSON, which is valid afterwards if it was before.

    Returns:
        What is left, and the nests, for `restored`.

    """
    rest: list[bytes] = []
    found: list[Numbers] = []
    parser, end = simdjson.Parser(), 0
    for start, stop in _spans(data):
        text = data[start:stop].strip(b" \t\r\n,")
        first = data.index(b"[", start) if text.startswith(b"[") else start
        numbers = _numbers(parser, text) if _FIELD.search(data[max(0, start - _NAME_END) : start]) else None
        if numbers is not None:
            rest += data[end:first], b'["%b%d"]' % (_MARK.encode(), len(found))
            found.append(numbers)
            end = first + len(text)
    return b"".join([*rest, data[end:]]), found


def restored(value: Any, found: Sequence[Numbers]) -> Any:
    """Return a value from which nests were taken, with each in its place again."""
    if isinstance(value, BaseModel):
        vars(value).update(restored(vars(value), found))
    elif type(value) is dict:
        return {key: restored(held, found) for key, held in value.items()}
    elif type(value) is list:
        if len(value) == 1 and type(value[0]) is str and value[0].startswith(_MARK):
            return found[int(value[0].removeprefix(_MARK))]
        return [restored(held, found) for held in value]
    return value


def _spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each long run of bytes that can be in a nest of numbers starts and ends."""
    before = -1
    for offset in range(0, len(data), _PIECE):
        found = np.frombuffer(data[offset : offset + _PIECE].translate(_OTHER), bool)
        others = np.concatenate([[before], np.flatnonzero(found) + offset])
        for index in np.flatnonzero(np.diff(others) > _LONG):
            yield int(others[index]) + 1, int(others[index + 1])
        before = int(others[-1])


def _numbers(parser: simdjson.Parser, text: bytes) -> Numbers | None:
    """Read a nest of numbers; None of anything else."""
    if text.startswith(b"[" * (MAX_DIMENSIONS + 1)):
        return None
    shape = _shape(_structure(text))
    if shape is None:
        return None
    parts = []
    for piece in pieces(text, b","):
        flat = piece.translate(_NO_BRACKETS)
        try:
            values = cast(simdjson.Array, parser.parse(b"[%b]" % flat)).as_buffer(of_type="d")
        except (ValueError, TypeError, RuntimeError):
            return None
        parts.append((np.frombuffer(values, np.float64), flat))
    return Numbers(shape, parts) if sum(part.size for part, _ in parts) == math.prod(shape) else None


def _structure(text: bytes) -> bytes:
    """Return the brackets and commas of a nest; nothing where a number stands outside the innermost brackets."""
    structure: list[bytes] = []
    last = b""
    for piece in pieces(text):
        tokens = np.frombuffer(last + piece.translate(_TOKENS, _SPACE), np.uint8)
        before, after = tokens[:-1], tokens[1:]
        if ((before == _DIGIT) & (after == _OPENING) | (before == _CLOSING) & (after == _DIGIT)).any():
            return b""
        own = tokens[len(last) :]
        structure.append(own[own != _DIGIT].tobytes())
        last = tokens[-1:].tobytes()
    return b"".join(structure)


def pieces(text: bytes, separator: bytes = b"") -> Iterator[bytes]:
    """Cut a text into pieces, at separators, which are left out."""
    start = 0
    while start < len(text):
        end = text.find(separator, start + _PIECE)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + len(separator)


def _shape(structure: bytes) -> list[int] | None:
    """Return the shape of a rectangular nest, of its brackets and commas; None if it is none, or its shape too long."""
    dimensions = len(structure) - len(structure.lstrip(b"["))
    if not 0 < dimensions <= MAX_DIMENSIONS:
        return None
    shape: list[int] = []
    entry = b""
    for level in range(1, dimensions + 1):
        end = structure.find(b"]" * level)
        size, rest = divmod(end + level - (dimensions - level) - 1, len(entry) + 1)
        if end < 0 or size < 1 or rest:
            return None
        entry = b"[" + (entry + b",") * (size - 1) + entry + b"]"
        shape.insert(0, size)
    return shape if entry == structure else None
