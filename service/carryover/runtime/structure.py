"""Nested values taken apart into tensors and a structure, and put together again.

What a recurrent module passes from one call to the next may be a tensor, or tensors and numbers in tuples, named
tuples, lists, dicts, dataclasses and plain objects, nested in any way. The tensors and numbers belong to a session; all
else, the structure, belongs to the model. `unflatten` makes fresh containers each time: no two calls share one.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_DEPTH = 24
_CONSTANTS = (
    *(str, bytes, Enum, range, type, FunctionType, BuiltinFunctionType, ModuleType),
    *(nn.Module, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
)
_LARGEST = 2**63


class _Absent(Enum):
    ABSENT = "absent"


ABSENT = _Absent.ABSENT
"""In the place of a value: there is none, the argument is left out, the attribute does not exist."""


class UnsupportedValueError(TypeError):
    """A value that is neither a tensor or number, nor a container of these."""


class Kind(Enum):
    """What a leaf is: the value that a tensor stands for."""

    TENSOR = "tensor"
    COMPLEX = "complex"
    ARRAY = "array"
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"

    @property
    def number(self) -> bool:
        """Whether it is a Python number, which has no axes."""
        return self in (Kind.BOOL, Kind.INT, Kind.FLOAT)


@dataclass(frozen=True, slots=True)
class Node:
    """A container: its class, the keys of its `children`, and what else tells how to make it."""

    cls: type
    keys: tuple[Hashable, ...]
    children: "tuple[Structure, ...]"
    extra: Hashable = None


@dataclass(frozen=True, slots=True)
class Constant:
    """What is part of the structure, and no container."""

    value: Hashable


Structure = Kind | Node | Constant


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of a nested value: the keys that lead to it, what it stands for, and the tensor."""

    path: tuple[str, ...]
    kind: Kind
    tensor: Tensor


def flatten(value: Any) -> tuple[list[Part], Structure]:
    """Take a value apart into its tensors, numbers among them, in order, and its structure.

    Raises:
        UnsupportedValueError: it holds what is neither of them, nor a container of these.

    """
    parts: list[Part] = []
    return parts, _flatten(value, (), parts)


def unflatten(structure: Structure, tensors: Iterator[Tensor]) -> Any:
    """Put a value together from a structure and the tensors in it, in the order in which `flatten` gave them."""
    if isinstance(structure, Kind):
        return _READ[structure](next(tensors))
    if isinstance(structure, Constant):
        return structure.value
    children = [unflatten(child, tensors) for child in structure.children]
    return _made(structure, children)


def capacity(structure: Structure) -> int:
    """Return how many elements the deques in it may have; those without a limit have none."""
    if not isinstance(structure, Node):
        return 0
    own = structure.extra if issubclass(structure.cls, deque) and isinstance(structure.extra, int) else 0
    return own + sum(map(capacity, structure.children))


def pick(value: Any, path: Sequence[str]) -> Any:
    """Return what lies in a value under a path of indices, keys and attributes.

    Raises:
        LookupError: nothing does; the message names the part of the path.

    """
    for part in path:
        try:
            if isinstance(value, Mapping):
                value = value[part if part in value or not part.isdecimal() else int(part)]
            elif isinstance(value, (tuple, list, deque)) and part.removeprefix("-").isdecimal():
                value = value[int(part)]
            else:
                value = getattr(value, part)
        except (LookupError, AttributeError):
            raise LookupError(f"a {type(value).__name__} has no {part!r}") from None
    return value


def fields(value: Any) -> list[tuple[Hashable, Any]]:
    """Return what a tuple, list, dict or dataclass holds, by index, key or field; nothing for all else."""
    if isinstance(value, (tuple, list, dict)) or (is_dataclass(value) and not isinstance(value, type)):
        return _items(value, ())[0]
    return []


def _flatten(value: Any, path: tuple[str, ...], parts: list[Part]) -> Structure:
    if value is None or value is ABSENT or isinstance(value, _CONSTANTS):
        return Constant(value)
    if (leaf := _leaf(value, path)) is not None:
        parts.append(leaf)
        return leaf.kind
    if len(path) >= _DEPTH:
        raise UnsupportedValueError(f"{'.'.join(path[:4])}… holds itself, or is nested deeper than {_DEPTH} levels")
    items, extra = _items(value, path)
    children = tuple(_flatten(held, (*path, str(key)), parts) for key, held in items)
    return Node(type(value), tuple(key for key, _ in items), children, extra)


def _leaf(value: Any, path: tuple[str, ...]) -> Part | None:
    """A tensor, array or number as a part; None where it is something else."""
    if isinstance(value, Tensor):
        tensor = value.detach()
        if not value.is_complex():
            return Part(path, Kind.TENSOR, tensor)
        return Part(path, Kind.COMPLEX, torch.view_as_real(tensor.resolve_conj()))
    if (kind := _NUMBERS.get(type(value))) is not None:
        return Part(path, kind, _number(value, path))
    if isinstance(value, (np.ndarray, np.generic)):
        return Part(path, Kind.ARRAY, _array(value, path))
    return None


def _items(value: Any, path: tuple[str, ...]) -> tuple[list[tuple[Hashable, Any]], Hashable]:
    """What a container holds by key or index, and what else it is made with."""
    if isinstance(value, deque):
        return list(enumerate(value)), value.maxlen
    if isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None) if isinstance(value, tuple) else None
        return list(zip(names, value, strict=True) if names else enumerate(value)), None
    if isinstance(value, dict):
        return list(value.items()), value.default_factory if isinstance(value, defaultdict) else None
    slots = slots_of(value)
    if isinstance(value, (MethodType, set, frozenset)) or not (slots or hasattr(value, "__dict__")):
        where = f"{'.'.join(path)} " if path else ""
        raise UnsupportedValueError(f"{where}is a {type(value).__name__}, which cannot be stored")
    return [*((name, getattr(value, name)) for name in slots), *vars_of(value).items()], len(slots)


def slots_of(value: Any) -> list[str]:
    """Return the slots of an object that hold something."""
    found = []
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else tuple(slots)
        found += [name for name in names if name not in ("__dict__", "__weakref__") and hasattr(value, name)]
    return found


def vars_of(value: Any) -> dict[str, Any]:
    """Return an object's `__dict__`, which it may not have."""
    return getattr(value, "__dict__", {})


def _made(node: Node, children: list[Any]) -> Any:
    cls = node.cls
    if issubclass(cls, tuple):
        plain = cls in (tuple, torch.Size) or hasattr(cls, "n_sequence_fields")
        return cls(children) if plain else tuple.__new__(cls, children)
    if issubclass(cls, deque):
        return cls(children, maxlen=node.extra if isinstance(node.extra, int) else None)
    made: Any = cls.__new__(cls)
    if issubclass(cls, list):
        list.extend(made, children)
    elif issubclass(cls, dict):
        if issubclass(cls, defaultdict):
            made.default_factory = node.extra
        update = OrderedDict.update if issubclass(cls, OrderedDict) else dict.update
        update(made, zip(node.keys, children, strict=True))
    else:
        count = node.extra if isinstance(node.extra, int) else 0
        for key, child in zip(node.keys[:count], children[:count], strict=True):
            object.__setattr__(made, str(key), child)  # a frozen dataclass has its own __setattr__
        vars_of(made).update(zip(map(str, node.keys[count:]), children[count:], strict=True))
    return made


def _number(value: complex, path: tuple[str, ...]) -> Tensor:
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise UnsupportedValueError(f"{'.'.join(path)} is {value:.3e}, which is more than 64 bits hold")
    return torch.tensor(value, dtype=_DTYPES[type(value)])


def _array(value: Any, path: tuple[str, ...]) -> Tensor:
    try:
        return torch.from_numpy(np.array(value))
    except TypeError:
        raise UnsupportedValueError(f"{'.'.join(path)} is an array of {value.dtype}, which cannot be stored") from None


_NUMBERS = {bool: Kind.BOOL, int: Kind.INT, float: Kind.FLOAT}
_DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}


_READ: dict[Kind, Callable[[Tensor], Any]] = {
    Kind.TENSOR: lambda tensor: tensor,
    Kind.COMPLEX: lambda tensor: torch.view_as_complex(tensor.contiguous()),
    Kind.ARRAY: lambda tensor: tensor.numpy(force=True),
    Kind.BOOL: Tensor.item,
    Kind.INT: Tensor.item,
    Kind.FLOAT: Tensor.item,
}
