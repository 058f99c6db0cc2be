"""What state starts from where that is a file, `initial = "start.safetensors:h"`, or a method: `"init_hidden"`."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime import weights
from carryover.runtime.manifest import FILE_AND_KEY, Manifest


def located(manifest: Manifest, *folders: Path) -> Manifest:
    """Return a manifest with the files of `initial` as paths: in the first of the folders that has them."""
    state = dict(manifest.state)
    for name, spec in state.items():
        if found := re.fullmatch(FILE_AND_KEY, spec.initial or ""):
            folder = next((folder for folder in folders if (folder / found["file"]).is_file()), folders[0])
            state[name] = spec.model_copy(update={"initial": str(folder.absolute() / str(spec.initial))})
    return manifest.model_copy(update={"state": state})


def from_file(name: str, initial: str) -> Any:
    """Return what an entry of state starts from; a file that holds a single tensor needs no key.

    Raises:
        ModelFailedError: there is no such file, it cannot be read, or it holds nothing under the key.

    """
    found = re.fullmatch(FILE_AND_KEY, initial)
    path, key = Path(found["file"] if found else initial), found and found["key"]
    where = f'state.{name}: initial = "{path.name}{f":{key}" if key else ""}"'
    if not path.is_file():
        raise ModelFailedError(f"{where}: there is no file {path.name} beside the manifest")
    try:
        held = weights.contents(path)
        if key:
            return weights.under(path, held, key, "the key")
    except ConfigurationError as error:
        raise ModelFailedError(f"{where}: {str(error).replace(f'{path}', path.name)}") from None
    if isinstance(held, dict) and len(held) != 1:
        names = ", ".join(map(repr, held))
        raise ModelFailedError(f'{where}: the file holds {names:.200}; expected one of them after it, as in ":name"')
    return next(iter(held.values())) if isinstance(held, dict) else held


def from_method(method: Callable[..., Any]) -> Any:
    """Return what a module's method makes for a batch of 1: `init_hidden(batch_size)`."""
    first = next(iter(inspect.signature(method).parameters.values()), None)
    sized = first is not None and (first.default is first.empty or "batch" in first.name)
    with torch.no_grad():
        return method(1) if sized else method()


def buffer(name: str, initial: str, registered: Tensor | None) -> Tensor | None:
    """Return what a state buffer starts from, of the datatype and shape that it has.

    Raises:
        ModelFailedError: what is in the file is no such tensor.

    """
    if initial == "zeros":
        return None if registered is None else torch.zeros_like(registered)
    held = from_file(name, initial)
    if not isinstance(held, Tensor):
        raise ModelFailedError(f"state.{name}: initial: expected a tensor, got a {type(held).__name__}")
    if registered is None or (held.dtype, held.shape) == (registered.dtype, registered.shape):
        return held
    expected, got = (f"{str(one.dtype).removeprefix('torch.')} {list(one.shape)}" for one in (registered, held))
    raise ModelFailedError(f"state.{name}: initial: the buffer is another tensor; expected {expected}, got {got}")
