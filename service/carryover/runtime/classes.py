"""From a manifest's `class` to a module."""

import importlib
import re
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from carryover.errors import ConfigurationError
from carryover.runtime.report import first_line


def build(target: str, arguments: Mapping[str, Any], manifest: Path) -> nn.Module:
    """Construct the module that `target` names: `package.module:Class`, or `file.py:Class` beside the manifest.

    Raises:
        ConfigurationError: the class cannot be found, is no `nn.Module`, or its constructor rejects the arguments.

    """
    return construct(find(target, manifest), arguments, manifest)


def construct(cls: type[nn.Module], arguments: Mapping[str, Any], manifest: Path) -> nn.Module:
    """Construct a class.

    Raises:
        ConfigurationError: its constructor rejects the arguments.

    """
    try:
        return cls(**arguments)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{manifest}: arguments: {cls.__name__} rejected them: {first_line(error)}") from error


def find(target: str, manifest: Path) -> type[nn.Module]:
    """Import the class that `target` names.

    Raises:
        ConfigurationError: it cannot be found, or is no `nn.Module`.

    """
    source, _, name = target.partition(":")
    try:
        container = _beside(manifest, source) if source.endswith(".py") else importlib.import_module(source)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{manifest}: class: {source} cannot be imported: {first_line(error)}") from error
    cls = getattr(container, name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigurationError(f"{manifest}: class: {source} has no nn.Module named {name}")
    return cls


def _beside(manifest: Path, file: str) -> ModuleType:
    """Import a file as part of a package that is its folder: files there can import each other as `.name`.

    It is imported again each time, as the file may have changed.
    """
    folder = manifest.resolve().parent
    if not (folder / file).is_file():
        raise ImportError(f"there is no file {file} beside the manifest")
    name = re.sub(r"\W", "_", folder.name)
    package = f"carryover_models_{name}_{sha256(str(folder).encode()).hexdigest()[:8]}"
    for known in [known for known in sys.modules if known == package or known.startswith(f"{package}.")]:
        del sys.modules[known]
    parent = ModuleType(package)
    parent.__path__ = [str(folder)]
    sys.modules[package] = parent
    importlib.invalidate_caches()
    return importlib.import_module(f"{package}.{file.removesuffix('.py')}")
