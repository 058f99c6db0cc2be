"""A constructor's arguments: those given, and those that a checkpoint leaves no choice about."""

import inspect
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor, nn

from carryover.errors import ConfigurationError

_LAYERS = {1, 2, 3, 4}
"""Tried beside the sizes that occur in the checkpoint: numbers of layers, heads or kernels."""
_MOST = 20_000
"""Modules that may be constructed to find the arguments; without memory, on torch's meta device."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Arguments of a constructor: those to pass, the names of those found out, and the defaults of all others."""

    arguments: dict[str, Any]
    found: tuple[str, ...]
    defaults: dict[str, Any]


def parse(text: str) -> tuple[str, Any]:
    """Read `name=value`, where the value is TOML (`64`, `true`, `[1, 2]`) or else a string.

    Raises:
        ConfigurationError: there is no name, or the value is None, which TOML cannot say.

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


def fit(cls: type[nn.Module], given: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Tensor]]) -> Fitted:
    """Return the arguments with which `cls` takes one of the state dicts; without any, those it can do with.

    What is not given keeps its default. Only where the constructor cannot do without an argument, or the state dicts do
    not fit with the defaults, are sizes tried; they count where exactly one choice of them fits.

    Raises:
        ConfigurationError: the constructor needs arguments that are neither given nor determined.

    """
    parameters = [p for p in _parameters(cls, given) if p.name not in given]
    required = [p.name for p in parameters if p.default is p.empty]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    if not checkpoints and required:
        raise _needs(cls, required)
    search = _Search(cls, given, checkpoints)
    found: dict[str, int] = {}
    if checkpoints and (required or not search.fits(found)):
        found = search.run(required, [name for name, value in defaults.items() if type(value) is int])
    others = {name: value for name, value in defaults.items() if name not in found}
    return Fitted({**given, **found}, tuple(found), others)


class _Search:
    """Tries sizes that occur in the state dicts for arguments, until the class's shapes are those of one of them."""

    def __init__(
        self, cls: type[nn.Module], given: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self._cls = cls
        self._given = given
        self._wanted = [{name: tensor.shape for name, tensor in checkpoint.items()} for checkpoint in checkpoints]
        self._sizes = sorted({size for shapes in self._wanted for shape in shapes.values() for size in shape} | _LAYERS)

    def run(self, required: Sequence[str], optional: Sequence[str]) -> dict[str, int]:
        """Return the only choice that fits and changes as few defaults as can be; nothing where no choice does.

        Raises:
            ConfigurationError: several fit, or none although the constructor needs some arguments.

        """
        left = _MOST
        for count in range(len(optional) + 1):
            ways = [(*required, *names) for names in combinations(optional, count)]
            left -= sum(len(self._sizes) ** len(names) for names in ways)
            if left < 0:
                break
            fitting = [choice for names in ways for choice in self._choices(names) if self.fits(choice)]
            if fitting:
                names = dict.fromkeys(name for choice in fitting for name in choice)
                first = fitting[0]
                if open_ := [
                    name
                    for name in names
                    if any(choice.get(name) != first.get(name) for choice in fitting) or not self._matters(first, name)
                ]:
                    raise _needs(self._cls, open_, ", as the checkpoint leaves more than one choice")
                return first
        if required:
            raise _needs(self._cls, required, ", as no sizes from the checkpoint make it fit")
        return {}  # what does not fit is said where the weights are loaded

    def fits(self, choice: Mapping[str, int]) -> bool:
        """Whether the class has the shapes of one of the state dicts."""
        return self._shapes(choice) in self._wanted

    def _choices(self, names: Sequence[str]) -> Iterator[dict[str, int]]:
        return (dict(zip(names, values, strict=True)) for values in product(self._sizes, repeat=len(names)))

    def _matters(self, choice: Mapping[str, int], name: str) -> bool:
        """Whether shapes depend on an argument: 1 may be the only size that fits since all others are refused."""
        others = (self._shapes({**choice, name: size}) for size in self._sizes if size != choice[name])
        return any(shapes is not None for shapes in others)

    def _shapes(self, choice: Mapping[str, int]) -> dict[str, torch.Size] | None:
        try:
            with torch.device("meta"):
                module = self._cls(**{**self._given, **choice})
            return {name: tensor.shape for name, tensor in module.state_dict().items()}
        except Exception:  # noqa: BLE001 - a constructor may refuse a size in any way it likes
            return None


def _parameters(cls: type[nn.Module], given: Mapping[str, Any]) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):
        return []
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        unknown = [name for name in given if name not in {p.name for p in parameters}]
        if unknown:
            names = ", ".join(p.name for p in parameters) or "none"
            raise ConfigurationError(
                f"--arguments: {cls.__name__} has no argument {unknown[0]!r}; its arguments are {names}"
            )
    return [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _needs(cls: type[nn.Module], names: Sequence[str], why: str = "") -> ConfigurationError:
    shown = " ".join(f"{name}=…" for name in names)
    return ConfigurationError(f"{cls.__name__} needs {', '.join(names)}{why}: pass --arguments {shown}")
