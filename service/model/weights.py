"""Checkpoints: a state dict, read without running anything that is in the file."""

import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from service.errors import ConfigurationError

FILES = ("weights.safetensors", "weights.pt")


def find(folder: Path) -> Path:
    """Return the weights file of a version's folder.

    Raises:
        ConfigurationError: there is none.

    """
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise ConfigurationError(f"{folder}: holds no weights: expected {' or '.join(FILES)}")


def read(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from `.pt` with `weights_only=True`.

    Raises:
        ConfigurationError: the file is damaged, or holds more than tensors.

    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        safetensors.SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
    ) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(f"{path}: is not a readable checkpoint: {first}") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConfigurationError(f"{path}: is not a state dict (a dict of tensors by name)")
    return loaded


def load(module: nn.Module, path: Path) -> None:
    """Load a checkpoint into a module, strictly: every parameter and persistent buffer, and nothing else.

    Raises:
        ConfigurationError: with the names that are missing, unexpected or of another shape.

    """
    given = read(path)
    expected = module.state_dict()
    faults = [
        f"{word} {', '.join(sorted(names))}"
        for word, names in (
            ("missing", expected.keys() - given.keys()),
            ("unexpected", given.keys() - expected.keys()),
        )
        if names
    ]
    faults += [
        f"{name} has shape {list(given[name].shape)} where the class has {list(expected[name].shape)}"
        for name in sorted(expected.keys() & given.keys())
        if given[name].shape != expected[name].shape
    ]
    if faults:
        raise ConfigurationError(f"{path}: does not fit {type(module).__name__}: {'; '.join(faults)}")
    module.load_state_dict(given, strict=True)
