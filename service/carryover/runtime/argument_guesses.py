"""A constructor's arguments: those given, and those that a checkpoint leaves no choice about."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, get_overloads

import torch
from torch import nn

from carryover.errors import ConfigurationError
from carryover.runtime.classes import name_of, resolve
from carryover.runtime.weights import StateDict

_LAYERS = {1, 2, 3, 4}
"""Tried beside the sizes that occur in the checkpoint: numbers of layers, heads or kernels."""
_SHOWN = 8
"""Arguments that a note names."""
_MOST = 20_000
"""Modules that may be constructed to find the arguments; without memory, on torch's meta device."""

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
Shapes = dict[str, torch.Size]
Make = Callable[..., nn.Module]


def fit(cls: Make, given: Mapping[str, Any], held: Iterable[StateDict], path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments with which `cls` takes one of the state dicts, or those it can do with, and where from.

    What is not given keeps its default. Only where the constructor cannot do without an argument, or the state dicts do
    not fit with the defaults, are sizes tried; they count where exactly one choice of them fits.

    Raises:
        ConfigurationError: the constructor needs arguments that are neither given nor determined.

    """

    def made(**arguments: Any) -> nn.Module:
        return cls(**resolve(arguments, path))

    made.__name__ = name_of(cls)
    parameters = [p for p in _parameters(cls, given) if p.name not in given]
    required = [p.name for p in parameters if p.default is p.empty]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    wanted = [{name: tensor.shape for name, tensor in one.tensors.items()} for one in held]
    if not wanted and required:
        raise _needs(cls, required)
    found: dict[str, int] = {}
    if wanted and (required or _shapes(made, given) not in wanted):
        found = _search(made, given, wanted, required, [name for name, value in defaults.items() if type(value) is int])
    others = [f"{name} = {value!r:.40}" for name, value in defaults.items() if name not in found]
    notes = []
    if found:
        shown = ", ".join(f"{name} = {value}" for name, value in found.items())
        notes.append(f"arguments: {shown}: the only sizes that make the class fit the checkpoint")
    if others:
        which = "all others" if given or found else "all"
        rest = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        notes.append(f"arguments: {which} as the class has them: {', '.join(others[:_SHOWN])}{rest}")
    return {**given, **found}, notes


def _search(
    cls: Make,
    given: Mapping[str, Any],
    wanted: Sequence[Shapes],
    required: Sequence[str],
    optional: Sequence[str],
) -> dict[str, int]:
    """The only choice of sizes that fits and changes as few defaults as can be; nothing where no choice does."""
    sizes = sorted({size for shapes in wanted for shape in shapes.values() for size in shape} | _LAYERS)
    left = _MOST
    for count in range(len(optional) + 1):
        ways = [(*required, *names) for names in combinations(optional, count)]
        left -= sum(len(sizes) ** len(names) for names in ways)
        if left < 0:
            break
        choices = [dict(zip(names, way, strict=True)) for names in ways for way in product(sizes, repeat=len(names))]
        fitting = [choice for choice in choices if _shapes(cls, {**given, **choice}) in wanted]
        for choice in fitting[:1]:
            # 1 may be the only size that fits since all others are rejected, whatever the shapes.
            others = {
                name: [_shapes(cls, {**given, **choice, name: size}) for size in sizes if size != choice[name]]
                for name in choice
            }
            names = dict.fromkeys(name for one in fitting for name in one)
            determined = [n for n in names if all(one.get(n) == choice.get(n) for one in fitting) and any(others[n])]
            if undetermined := [name for name in names if name not in determined]:
                raise _needs(cls, undetermined, ", as the checkpoint leaves more than one choice")
            return choice
    if required:
        raise _needs(cls, required, ", as no sizes from the checkpoint make it fit")
    return {}  # what does not fit is said where the weights are loaded


def _shapes(cls: Make, arguments: Mapping[str, Any]) -> Shapes | None:
    try:
        with torch.device("meta"):
            return {name: tensor.shape for name, tensor in cls(**arguments).state_dict().items()}
    except Exception:  # noqa: BLE001 - a constructor may reject a size in any way it likes
        return None


def _parameters(cls: Make, given: Mapping[str, Any]) -> list[inspect.Parameter]:
    parameters: Mapping[str, inspect.Parameter]
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return []
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not any(p.kind in _NAMED for p in parameters.values()):
        parameters = _overloaded(cls)
    unknown = [name for name in given if name not in parameters]
    if unknown and not takes_any:
        names = ", ".join(parameters) or "none"
        raise ConfigurationError(
            f"--arguments: {name_of(cls)} has no argument {unknown[0]!r}; its arguments are {names}"
        )
    return [p for p in parameters.values() if p.kind in _NAMED]


def _overloaded(cls: Make) -> Mapping[str, inspect.Parameter]:
    """The parameters of the first overload of a constructor that takes anything, as that of `torch.nn.GRU` does."""
    constructor = cls.__init__
    overloads = get_overloads(constructor) if inspect.isfunction(constructor) else []  # a function's own is none
    return dict([*inspect.signature(overloads[0]).parameters.items()][1:]) if overloads else {}


def _needs(cls: Make, names: Sequence[str], why: str = "") -> ConfigurationError:
    shown = " ".join(f"{name}=…" for name in names)
    return ConfigurationError(f"{name_of(cls)} needs {', '.join(names)}{why}: pass --arguments {shown}")
