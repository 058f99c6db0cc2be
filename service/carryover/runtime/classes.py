"""From a manifest's `class` to a module."""

import importlib
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from carryover.errors import ConfigurationError
from carryover.runtime import siblings
from carryover.runtime.report import first_line


def build(target: str, arguments: Mapping[str, Any], manifest: Path) -> nn.Module:
    """Construct the module that `target` names: `package.module:Class`, or `file.py:Class` beside the manifest.

    Raises:
        ConfigurationError: the class cannot be found, makes no `nn.Module`, or rejects the arguments.

    """
    return construct(find(target, manifest), arguments, manifest)


def construct(make: Callable[..., nn.Module], arguments: Mapping[str, Any], manifest: Path) -> nn.Module:
    """Construct a class, or call what makes a module.

    Raises:
        ConfigurationError: it rejects the arguments, or makes no `nn.Module`.

    """
    given = resolve(arguments, manifest)
    try:
        made = make(**given)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{manifest}: arguments: {name_of(make)} rejected them: {first_line(error)}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigurationError(
            f"{manifest}: class: {name_of(make)} returned a {type(made).__name__}, which is no nn.Module"
        )
    if isinstance(made, torch.jit.ScriptModule):
        raise ConfigurationError(
            f"{manifest}: class: {name_of(make)} returned TorchScript; expected an nn.Module that holds it, and whose "
            "forward calls it"
        )
    return made


def resolve(value: Any, manifest: Path) -> Any:
    """Return an argument as the constructor takes it.

    `{ class = "package:Config", size = 8 }` is an object of that class, or what the name stands for where it cannot be
    called; `{ none = true }` is None, which TOML cannot express. All else is itself, lists and tables of these too.

    Raises:
        ConfigurationError: the class of an object cannot be found, or rejects the arguments.

    """
    if isinstance(value, list):
        return [resolve(inner, manifest) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if value == {"none": True}:
        return None
    given = {key: resolve(inner, manifest) for key, inner in value.items() if key != "class"}
    target = value.get("class")
    if not isinstance(target, str) or ":" not in target:
        return {**given, "class": target} if "class" in value else given
    found = _named(target, manifest, "arguments")
    if not given and not callable(found):
        return found
    try:
        return found(**given)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{manifest}: arguments: {name_of(found)} rejected them: {first_line(error)}"
        ) from error


def name_of(make: Callable[..., Any]) -> str:
    """Return the name of a class, or of what makes a module."""
    return getattr(make, "__name__", type(make).__name__)


def find(target: str, manifest: Path) -> Callable[..., nn.Module]:
    """Import the class, or other callable, that `target` names.

    Raises:
        ConfigurationError: it cannot be found, or is a class of something else than modules.

    """
    found, (source, _, name) = _named(target, manifest, "class"), target.partition(":")
    if isinstance(found, type) and not issubclass(found, nn.Module):
        raise ConfigurationError(
            f"{manifest}: class: {name} of {source} is no nn.Module; expected one, such as a wrapper that holds it"
        )
    if not callable(found):
        raise ConfigurationError(f"{manifest}: class: {source} has no nn.Module named {name}")
    return cast(Callable[..., nn.Module], found)


def _named(target: str, manifest: Path, key: str) -> Any:
    """Import what `target` names; None where its file or package has no such name."""
    source, _, name = target.partition(":")
    try:
        container = _container(source, manifest.resolve().parent, again=key == "class")
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{manifest}: {key}: {source} cannot be imported: {first_line(error)}") from error
    try:
        return attrgetter(name)(container)
    except AttributeError:
        if key == "class":
            return None
        raise ConfigurationError(f"{manifest}: {key}: {source} has no {name}") from None


def _container(source: str, folder: Path, *, again: bool) -> ModuleType:
    """Import a file or package in the manifest's folder, an installed one, or one beside the model repository.

    What lies in those folders is imported `again` for each class, as a file may have changed; what the arguments are
    made of is not.
    """
    own = (folder.parent / "model.toml").is_file()  # a version's manifest, whose model has one, too
    if source.endswith(".py"):
        if own and not (folder / source).is_file():
            folder = folder.parent
        if not (folder / source).is_file():
            raise ImportError(f"there is no file {source} beside the manifest")
        return siblings.of(folder, again=again).module(source.removesuffix(".py").replace("/", "."))
    top = source.partition(".")[0]
    if own and not siblings.holds(folder, top):
        folder = folder.parent
    if siblings.holds(folder, top):
        return siblings.of(folder, again=again).module(source)
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        places = (folder, folder.parent, folder.parent.parent)
        beside = next((place for place in places if siblings.holds(place, top, bare=True)), None)
        if beside is None or error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise
    return siblings.of(beside, again=again).module(source)
