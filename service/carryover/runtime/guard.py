"""What a module holds beside its parameters and the buffers it was built with: there, sessions are not isolated."""

import inspect
import random
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from carryover.runtime.buffers import raw
from carryover.runtime.structure import slots_of, vars_of

PLAIN = vars(nn.Module()).keys()
"""The attributes that every module has."""
_DEPTH = 4
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)


def marks(module: nn.Module, buffers: Collection[str], *, identities: bool = True) -> dict[str, object]:
    """Return what tells, for each attribute by name, whether its value has changed; `buffers` are those left out.

    Without `identities`, another object of the same class and with the same attributes is the same.
    """
    found: dict[str, object] = {}
    for prefix, owner in named_modules(module):
        held = owner._buffers.items()  # noqa: SLF001 - `named_buffers` leaves out those that are None
        values = {key: value for key, value in vars(owner).items() if key not in PLAIN} | dict(held)
        named = {dotted(prefix, key): value for key, value in values.items()}
        found |= {name: mark(value, identities=identities) for name, value in named.items() if name not in buffers}
    return found


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules whose attributes Python holds: not those of TorchScript, which hold theirs in C++."""
    return ((name, owner) for name, owner in module.named_modules() if not scripted(owner))


def holds_generator(module: nn.Module) -> bool:
    """Whether a module, or the file of a class of it, holds a generator of random numbers, which moves unseen."""
    owners = [owner for _, owner in named_modules(module)]
    files = [getattr(inspect.unwrap(type(owner).forward), "__globals__", {}) for owner in owners]
    return any(isinstance(value, _GENERATORS) for space in (*map(vars, owners), *files) for value in space.values())


def iterators(module: nn.Module) -> dict[str, str]:
    """Return the attributes that are iterators, and what each is called: their places cannot be read."""
    return {
        dotted(prefix, key): type(value).__name__
        for prefix, owner in named_modules(module)
        for key, value in vars(owner).items()
        if isinstance(value, Iterator)
    }


def scripted(module: nn.Module) -> bool:
    """Whether a module is TorchScript."""
    return isinstance(module, torch.jit.ScriptModule)


def dotted(prefix: str, key: str) -> str:
    """Return the name of an attribute of the module of this name."""
    return f"{prefix}.{key}" if prefix else key


def contents(value: object) -> dict[str, Any]:
    """Return the attributes of an object, those in slots as well."""
    return {name: getattr(value, name) for name in slots_of(value)} | vars_of(value)


def mark(value: object, depth: int = _DEPTH, *, identities: bool = True) -> object:  # noqa: PLR0911 - a table of types
    """Return what differs once a value, or what it holds, has changed."""

    def inner(held: object) -> object:
        return mark(held, depth - 1, identities=identities)

    if isinstance(value, Tensor):
        with suppress(RuntimeError):  # of what has no bytes to look at: quantized, nested, on no device
            return str(value.dtype), tuple(value.shape), crc32(raw(value))
        return id(value) if identities else tuple(value.shape)
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, crc32(value.tobytes())
    if isinstance(value, (int, float, complex, str, bytes)):
        return value
    if isinstance(value, (nn.Module, type, FunctionType, ModuleType)) or not depth:
        return id(value)
    if isinstance(value, dict):
        return [(inner(key), inner(held)) for key, held in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return [inner(held) for held in value]
    if isinstance(value, (set, frozenset)):
        return len(value)
    return [id(value) if identities else type(value), inner(contents(value))]
