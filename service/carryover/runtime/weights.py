"""Checkpoints: a state dict, read without running anything that is in the file."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from carryover.errors import ConfigurationError
from carryover.runtime import programs
from carryover.runtime.manifest import WeightsSpec
from carryover.runtime.report import first_line

FILES = ("weights.safetensors", "weights.pt")
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What DataParallel, `torch.compile` and training frameworks put before every name."""


def find(folder: Path) -> Path:
    """Return the weights file of a version's folder.

    Raises:
        ConfigurationError: there is none.

    """
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    program = (
        f"; {programs.FILE} is loaded where the manifest names no class" if (folder / programs.FILE).is_file() else ""
    )
    raise ConfigurationError(f"{folder}: holds no weights: expected {' or '.join(FILES)}{program}")


def read(path: Path, spec: WeightsSpec) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from `.pt` with `weights_only=True`.

    Raises:
        ConfigurationError: the file is damaged, holds no state dict where `spec` says, or holds more than tensors.

    """
    found = contents(path)
    if spec.key is not None:
        if not isinstance(found, dict) or spec.key not in found:
            raise ConfigurationError(f"{path}: holds nothing under weights.key = {spec.key!r}: {_kind(found)}")
        found = found[spec.key]
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise ConfigurationError(
            f"{path}: is not a state dict, a dict of tensors by name: {_kind(found)}; "
            "where the state dict lies in that, say so in the manifest: weights.key"
        )
    if odd := [name for name in found if not name.startswith(spec.prefix)]:
        raise ConfigurationError(f"{path}: weights.prefix = {spec.prefix!r}, but there is a tensor {odd[0]!r}")
    return {name.removeprefix(spec.prefix): value for name, value in found.items()}


def load(module: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Load what fits of a state dict into a module, and return what does not: names and shapes.

    Every parameter and persistent buffer must be there, and nothing else. Of tensors that share their memory, such as
    tied weights, one is enough, as safetensors saves them.
    """
    expected = module.state_dict()
    found = faults(expected, given)
    fitting = {
        name: tensor
        for name, tensor in given.items()
        if name in expected and (is_lazy(expected[name]) or expected[name].shape == tensor.shape)
    }
    module.load_state_dict(fitting, strict=False)
    return found


def faults(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return what keeps a state dict from being loaded where another is expected: names and shapes."""
    held = {_memory(tensor) for name, tensor in expected.items() if name in given}
    return [
        f"{word} {', '.join(sorted(names))}"
        for word, names in (
            ("missing", {name for name in expected.keys() - given.keys() if _memory(expected[name]) not in held}),
            ("unexpected", given.keys() - expected.keys()),
        )
        if names
    ] + [
        f"{name} has shape {list(given[name].shape)} where the class has {list(expected[name].shape)}"
        for name in sorted(expected.keys() & given.keys())
        if not is_lazy(expected[name]) and given[name].shape != expected[name].shape
    ]


def _memory(tensor: Tensor) -> object:
    """What two tensors have in common where one is the other under a second name."""
    if is_lazy(tensor) or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def contents(path: Path) -> Any:
    """Return what a checkpoint file holds, a state dict or not.

    Raises:
        ConfigurationError: it is damaged, or holds what only running it would restore.

    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigurationError(
            f"{path}: holds more than tensors, which only running it would restore, or is damaged; save a state_dict()"
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes torch raise anything
        raise ConfigurationError(f"{path}: is not a readable checkpoint: {first_line(error)}") from None


def _kind(found: Any) -> str:
    return (
        f"it holds {', '.join(map(repr, found))}"[:200]
        if isinstance(found, dict)
        else f"it is a {type(found).__name__}"
    )


@dataclass(frozen=True, slots=True)
class Group:
    """The tensors of one dict in a checkpoint. `path` are the keys that lead to it, `others` what else lies there."""

    path: tuple[str, ...]
    tensors: dict[str, Tensor]
    others: dict[str, str]

    def prefixes(self) -> Iterator[str]:
        """Yield what wrappers have put before every name, from the outermost alone to all of them together."""
        prefix = ""
        while self.tensors:
            inner = [name.removeprefix(prefix) for name in self.tensors]
            step = next((wrapper for wrapper in WRAPPERS if all(name.startswith(wrapper) for name in inner)), None)
            if step is None:
                return
            prefix += step
            yield prefix

    def advice(self) -> Iterator[str]:
        """Say what a manifest must say so that these tensors are found."""
        place = " > ".join(self.path)
        if len(self.path) == 1 and len(self.tensors) > 1 and not self.others:
            yield f'To serve the tensors under {place!r}, a manifest says [weights] key = "{place}".'
        for prefix in self.prefixes():
            yield (
                f"All names {f'under {place!r} ' if place else ''}start with {prefix!r}; where those of the class do "
                f'not, a manifest says [weights] prefix = "{prefix}".'
            )


@dataclass(frozen=True, slots=True)
class StateDict:
    """What could be a module's state dict: where it lies, and its tensors by name, without `prefix`."""

    path: tuple[str, ...]
    prefix: str
    tensors: dict[str, Tensor]

    @property
    def place(self) -> str:
        """Where it lies, in words; nothing where it is the whole checkpoint."""
        words = [f"under {'.'.join(self.path)!r}"] if self.path else []
        words += [f"without the prefix {self.prefix!r}"] if self.prefix else []
        return " ".join(words)


def groups(found: Any, path: tuple[str, ...] = ()) -> Iterator[Group]:
    """Yield the dicts and lists that hold tensors in a checkpoint, from the outside in."""
    if isinstance(found, Tensor):
        yield Group(path, {"": found}, {})
    if not isinstance(found, (Mapping, list, tuple)):
        return
    items = {str(key): value for key, value in (found.items() if isinstance(found, Mapping) else enumerate(found))}
    tensors = {key: value for key, value in items.items() if isinstance(value, Tensor)}
    nested = {key: value for key, value in items.items() if isinstance(value, (Mapping, list, tuple))}
    others = {
        key: f"{value!s:.60}" if isinstance(value, (int, float, str, bool)) else type(value).__name__
        for key, value in items.items()
        if key not in tensors and key not in nested
    }
    if tensors or others:
        yield Group(path, tensors, others)
    for key, value in nested.items():
        yield from groups(value, (*path, key))


def state_dicts(path: Path) -> list[StateDict]:
    """Return everything in a checkpoint that could be a state dict: each as it is, and without a wrapper's prefix."""
    return [
        StateDict(group.path, prefix, {name.removeprefix(prefix): held for name, held in group.tensors.items()})
        for group in groups(contents(path))
        if group.tensors and "" not in group.tensors
        for prefix in ("", *group.prefixes())
    ]


def load_fitting(module: nn.Module, path: Path, held: Sequence[StateDict]) -> StateDict:
    """Load the first state dict that fits, and return it.

    Raises:
        ConfigurationError: with what keeps the nearest one from being loaded.

    """
    expected = module.state_dict()
    if not held and expected:
        raise ConfigurationError(f"{path}: holds no tensors by name")
    for one in held or (StateDict((), "", {}),):
        if not faults(expected, one.tensors):
            module.load_state_dict(one.tensors, strict=False)
            return one
    nearest = max(held, key=lambda one: len(expected.keys() & one.tensors.keys()))
    found = "; ".join(faults(expected, nearest.tensors))
    raise ConfigurationError(f"{path}: does not fit {type(module).__name__}: {found}")
