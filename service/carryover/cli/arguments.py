"""A constructor's arguments: those given, and those that a checkpoint leaves no choice about."""

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor, nn

from carryover.errors import ConfigurationError

_LAYERS = {1, 2, 3, 4}
"""Tried beside the sizes that occur in the checkpoint: numbers of layers, heads or kernels."""
_MOST = 20_000
"""Modules that may be constructed to find the arguments; without memory, on torch's meta device."""


def parse(text: str) -> tuple[str, Any]:
    """Read `name=value`, where the value is TOML (`64`, `true`, `[1, 2]`) or else a string.

    Raises:
        ConfigurationError: there is no name, or the value is None, which TOML cannot express.

    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigurationError(f"--arguments {text}: expected name=value, such as hidden_size=64")
    if value == "None":
        raise ConfigurationError(f"--arguments {text}: a manifest cannot say None; leave the argument out")
    if value in ("True", "False"):
        return name, value == "True"
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
    return name, parsed if isinstance(parsed, (bool, int, float, str, list, dict)) else value


def fit(
    cls: type[nn.Module], given: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Tensor]]
) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments with which `cls` takes one of the state dicts, or those it can do with, and where from.

    What is not given keeps its default. Only where the constructor cannot do without an argument, or the state dicts do
    not fit with the defaults, are sizes tried; they count where exactly one choice of them fits.

    Raises:
        ConfigurationError: the constructor needs arguments that are neither given nor determined.

    """
    parameters = [p for p in _parameters(cls, given) if p.name not in given]
    required = [p.name for p in parameters if p.default is p.empty]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    wanted = [{name: tensor.shape for name, tensor in checkpoint.items()} for checkpoint in checkpoints]
    if not wanted and required:
        raise _needs(cls, required)
    found: dict[str, int] = {}
    if wanted and (required or _shapes(cls, given) not in wanted):
        found = _search(cls, given, wanted, required, [name for name, value in defaults.items() if type(value) is int])
    others = {name: value for name, value in defaults.items() if name not in found}
    arguments, notes = {**given, **found}, []
    if found:
        shown = ", ".join(f"{name} = {value}" for name, value in found.items())
        notes.append(f"arguments: {shown}: the only sizes that make the class fit the checkpoint")
    if others:
        shown = ", ".join(f"{name} = {value!r:.40}" for name, value in others.items())
        notes.append(f"arguments: {'all others' if arguments else 'all'} as the class has them: {shown}")
    return arguments, notes


Shapes = dict[str, torch.Size]


def _search(
    cls: type[nn.Module],
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
        if fitting:
            first = fitting[0]
            # 1 may be the only size that fits since all others are rejected, whatever the shapes.
            matter = {
                name
                for name in first
                if any(
                    _shapes(cls, {**given, **first, name: size}) is not None for size in sizes if size != first[name]
                )
            }
            names = dict.fromkeys(name for choice in fitting for name in choice)
            same = {name for name in names if all(choice.get(name) == first.get(name) for choice in fitting)}
            if open_ := [name for name in names if name not in same & matter]:
                raise _needs(cls, open_, ", as the checkpoint leaves more than one choice")
            return first
    if required:
        raise _needs(cls, required, ", as no sizes from the checkpoint make it fit")
    return {}  # what does not fit is said where the weights are loaded


def _shapes(cls: type[nn.Module], arguments: Mapping[str, Any]) -> Shapes | None:
    try:
        with torch.device("meta"):
            module = cls(**arguments)
        return {name: tensor.shape for name, tensor in module.state_dict().items()}
    except Exception:  # noqa: BLE001 - a constructor may reject a size in any way it likes
        return None


def _parameters(cls: type[nn.Module], given: Mapping[str, Any]) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):
        return []
    unknown = [name for name in given if name not in {p.name for p in parameters}]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = ", ".join(p.name for p in parameters) or "none"
        raise ConfigurationError(
            f"--arguments: {cls.__name__} has no argument {unknown[0]!r}; its arguments are {names}"
        )
    return [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _needs(cls: type[nn.Module], names: Sequence[str], why: str = "") -> ConfigurationError:
    shown = " ".join(f"{name}=…" for name in names)
    return ConfigurationError(f"{cls.__name__} needs {', '.join(names)}{why}: pass --arguments {shown}")
