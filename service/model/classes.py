"""From a manifest's `class` to a module."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from service.errors import ConfigurationError


def build(target: str, arguments: Mapping[str, Any], manifest: Path) -> nn.Module:
    """Construct the module that `target` names: `package.module:Class`, or `file.py:Class` beside the manifest.

    Raises:
        ConfigurationError: the class cannot be found, is no `nn.Module`, or its constructor refuses the arguments.

    """
    source, _, name = target.partition(":")
    try:
        container = _from_file(manifest.parent / source) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:
        raise ConfigurationError(f"{manifest}: class: {source} cannot be imported: {_first_line(error)}") from error
    cls = getattr(container, name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigurationError(f"{manifest}: class: {source} has no nn.Module named {name}")
    try:
        return cls(**arguments)
    except Exception as error:
        raise ConfigurationError(f"{manifest}: arguments: {name} refused them: {_first_line(error)}") from error


def _from_file(path: Path) -> Any:
    name = f"carryover_models.{path.resolve().parent.name}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
