"""Checkpoints: a state dict, read without running anything that is in the file."""

import argparse
import pickle
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from carryover.errors import ConfigurationError
from carryover.runtime import programs
from carryover.runtime.manifest import WeightsSpec
from carryover.runtime.report import first_line

Tensors = dict[str, Any]
"""A state dict: tensors by name, and extra state that modules have saved."""
_EXTRA = "_extra_state"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_WRAPPING = ("module", "_orig_mod")
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


def read(path: Path, spec: WeightsSpec) -> Tensors:
    """Read a state dict from safetensors, or from `.pt` with `weights_only=True`.

    Raises:
        ConfigurationError: the file is damaged, holds no state dict where `spec` says, or holds more than tensors.

    """
    found = contents(path)
    if isinstance(spec.key, Mapping):
        parts = {part: _state_dict(path, under(path, found, key)) for part, key in spec.key.items()}
        given = {f"{part}.{name}" if part else name: x for part, held in parts.items() for name, x in held.items()}
    else:
        given = _state_dict(path, found if spec.key is None else under(path, found, spec.key))
    selected = _named({name.removeprefix(spec.prefix): name for name in given if name.startswith(spec.prefix)}, given)
    if spec.prefix and not selected:
        some = ", ".join(map(repr, list(given)[:3]))
        raise ConfigurationError(f"{path}: weights.prefix = {spec.prefix!r}, but the tensors are {some} …")
    for name in (*spec.ignore, *spec.rename):
        if not any(starts(held, name) for held in selected):
            word = "ignore" if name in spec.ignore else "rename"
            raise ConfigurationError(f"{path}: weights.{word} names {name!r}, and there is no such tensor")
    kept = {name: name for name in selected if not any(starts(name, left_out) for left_out in spec.ignore)}
    return _named({renamed(name, spec.rename): name for name in kept}, selected)


def starts(name: str, what: str) -> bool:
    """Return whether `what` is the name, or the module in which it is."""
    return name == what or name.startswith(what if what.endswith(".") else f"{what}.")


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Return what the class calls a tensor."""
    for old, new in names.items():
        if starts(name, old):
            return (new + name.removeprefix(old)).removeprefix(".")
    return name


def under(path: Path, found: Any, key: str, said: str = "weights.key") -> Any:
    """Return what lies under dotted keys, which may have dots in them.

    Raises:
        ConfigurationError: nothing does.

    """
    if isinstance(found, Mapping):
        if key in found:
            return found[key]
        for end in (match.start() for match in re.finditer(r"\.", key)):
            if key[:end] in found:
                return under(path, found[key[:end]], key[end + 1 :], said)
    raise ConfigurationError(f"{path}: holds nothing under {said} = {key!r}: {_kind(found)}")


def _state_dict(path: Path, found: Any) -> Tensors:
    if not isinstance(found, dict) or not all(isinstance(k, str) and _is_saved(k, v) for k, v in found.items()):
        raise ConfigurationError(
            f"{path}: is not a state dict, a dict of tensors by name: {_kind(found)}; "
            "where the state dict lies in that, say so in the manifest: weights.key"
        )
    return found


def _is_saved(name: str, value: object) -> bool:
    return isinstance(value, Tensor) or name.rpartition(".")[2] == _EXTRA


def _named(names: Mapping[str, str], held: Mapping[str, Any]) -> Tensors:
    """Values under other names: the keys of `names`. The versions of the modules, which torch saves, go with them."""
    given: OrderedDict[str, Any] = OrderedDict((name, held[old]) for name, old in names.items())
    versions: Mapping[str, Any] = getattr(held, "_metadata", {})
    modules = {"": next((old.removesuffix(new).removesuffix(".") for new, old in names.items()), "")}
    for name, old in names.items():
        ends = [(at, at + len(old) - len(name)) for at, char in enumerate(name) if char == "."]
        modules |= {name[:end]: old[:at] for end, at in ends if at > 0}
    known = {name: versions[old] for name, old in modules.items() if old in versions}
    if known:
        given._metadata = OrderedDict(known)  # type: ignore[attr-defined] # noqa: SLF001 - as torch has it
    return given


def adapt(expected: Collection[str], given: Tensors) -> Tensors:
    """Remove what DataParallel and `torch.compile` put into names, wherever it stands, if the class knows them so."""
    if given.keys() <= set(expected):
        return given
    names: dict[str, str] = {}
    for name in given:
        parts = name.split(".")
        bare = ".".join(part for part in parts if part not in _WRAPPING)
        names[bare if name not in expected and bare in expected else name] = name
    return _named(names, given) if len(names) == len(given) else given


@dataclass(frozen=True, slots=True)
class Fit:
    """How a state dict fits a module: the names that are missing, and all else as sentences."""

    missing: frozenset[str]
    faults: tuple[str, ...]

    def sentences(self, others: Collection[str] = ()) -> list[str]:
        """Say what does not fit; of the missing names those that are not among `others`."""
        missing = sorted(self.missing - set(others))
        return [*([f"missing {', '.join(missing)}"] if missing else []), *self.faults]


def load(module: nn.Module, given: Tensors) -> Fit:
    """Have a module load a state dict, as far as it fits, and return what does not.

    What is missing or unexpected is what torch says: a module may fill in what an old checkpoint lacks, and rename. Of
    tensors that share their memory, such as tied weights, one is enough, as safetensors saves them.
    """
    expected = module.state_dict()
    shapes = _other_shapes(expected, given)
    held = {_memory(tensor) for name, tensor in expected.items() if name in given and isinstance(tensor, Tensor)}
    _unfold(module)
    try:
        reported = module.load_state_dict(given, strict=False)
    except RuntimeError as error:
        # torch has loaded all else by now; but it does not say what was missing.
        found = faults(expected, given)
        _, _, why = str(error).partition(":\n\t")  # after a line that says no more than that something does not fit
        return Fit(frozenset(), tuple(found if shapes else [first_line(RuntimeError(why) if why else error)]))
    missing = {
        name
        for name in reported.missing_keys
        if not isinstance(expected.get(name), Tensor) or _memory(expected[name]) not in held
    }
    unexpected = sorted(reported.unexpected_keys)
    return Fit(frozenset(missing), tuple([f"unexpected {', '.join(unexpected)}"] if unexpected else []))


def _unfold(module: nn.Module) -> None:
    """Give parameters that were expanded memory for each element: torch writes to no other."""
    for parameter in module.parameters():
        if not is_lazy(parameter) and parameter.layout is torch.strided and _expanded(parameter):
            parameter.data = parameter.data.clone()


def _expanded(tensor: Tensor) -> bool:
    return any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def faults(expected: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return what keeps a state dict from being loaded where another is expected: names and shapes."""
    held = {_memory(tensor) for name, tensor in expected.items() if name in given and isinstance(tensor, Tensor)}
    absent = {
        name
        for name in expected.keys() - given.keys()
        if not isinstance(expected[name], Tensor) or _memory(expected[name]) not in held
    }
    words = (("missing", absent), ("unexpected", given.keys() - expected.keys()))
    return [f"{word} {', '.join(sorted(names))}" for word, names in words if names] + _other_shapes(expected, given)


def _other_shapes(expected: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} has shape {list(given[name].shape)} where the class has {list(expected[name].shape)}"
        for name in sorted(expected.keys() & given.keys())
        if _has_values(expected[name]) and given[name].shape != expected[name].shape
    ]


def _has_values(value: object) -> bool:
    """Whether a value is a tensor, and none whose shape a first forward, or a checkpoint, is to say."""
    return isinstance(value, Tensor) and not is_lazy(value)


def _memory(tensor: Tensor) -> object:
    """What two tensors have in common where one is the other under a second name."""
    if is_lazy(tensor) or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def file_for(module: nn.Module) -> str:
    """Return the name of the file for a module's weights: `.pt` where the state dict holds more than tensors."""
    return FILES[0 if all(isinstance(held, Tensor) for held in module.state_dict().values()) else 1]


def save(module: nn.Module, path: Path) -> None:
    """Write a module's state dict.

    Raises:
        ConfigurationError: safetensors does not take it.

    """
    if path.suffix == ".pt":
        torch.save(module.state_dict(), path)
        return
    # Cloned: safetensors rejects tensors that share their memory, as tied weights do.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    try:
        safetensors.torch.save_file(tensors, path)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be written: {error}") from None


def contents(path: Path) -> Any:
    """Return what a checkpoint file holds, a state dict or not.

    Raises:
        ConfigurationError: it is damaged, or holds what only running it would restore.

    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        what = f"an object of {named[1]}" if named else "more than tensors"
        damaged = "" if named else ", or is damaged"
        raise ConfigurationError(
            f"{path}: holds {what}, which only running it would restore{damaged}; save its state_dict() by itself: "
            "torch.load(path, weights_only=False) reads it, if you trust whoever made it"
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes torch raise anything
        raise ConfigurationError(f"{path}: is not a readable checkpoint: {first_line(error)}") from None


def _harmless() -> list[Any]:
    """What training scripts save beside weights, and nothing runs that restores it: numbers, options and paths."""
    numbers = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    scalar = np.float64(0).__reduce__()[0]
    # As numpy 1 and numpy 2 name it.
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, *numbers, argparse.Namespace, PosixPath, PurePosixPath]


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
        """Yield what wrappers have put before names, from the outermost alone to all of them together.

        What all names start with may be such a wrapper, whatever it is called.
        """
        prefix = ""
        while self.tensors:
            inner = [name.removeprefix(prefix) for name in self.tensors if name.startswith(prefix)]
            step = next((wrapper for wrapper in WRAPPERS if any(name.startswith(wrapper) for name in inner)), None)
            common = {name.partition(".")[0] if "." in name else "" for name in inner}
            if step is None and len(common) == 1 and common != {""}:
                step = f"{common.pop()}."
            if step is None:
                return
            prefix += step
            yield prefix

    def advice(self) -> Iterator[str]:
        """Say what a manifest must say so that these tensors are found."""
        place = " > ".join(self.path)
        if self.path and len(self.tensors) > 1 and not self.others:
            yield f'To serve the tensors under {place!r}, a manifest says [weights] key = "{".".join(self.path)}".'
        where = f"under {place!r} " if place else ""
        for prefix in self.prefixes():
            some = "All" if all(name.startswith(prefix) for name in self.tensors) else "Some"
            yield (
                f"{some} names {where}start with {prefix!r}; where those of the class do "
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
        StateDict(
            group.path,
            prefix,
            {name.removeprefix(prefix): held for name, held in group.tensors.items() if name.startswith(prefix)},
        )
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
    exact = held or (StateDict((), "", {}),)
    for one in (*exact, *(replace(one, tensors=adapt(expected, one.tensors)) for one in exact)):
        if not _other_shapes(expected, one.tensors) and one.tensors.keys() <= expected.keys():
            before = {name: value.clone() if _has_values(value) else value for name, value in expected.items()}
            if not load(module, one.tensors).sentences():
                return one
            module.load_state_dict(before, strict=False)
    nearest = max(held, key=lambda one: len(expected.keys() & one.tensors.keys()))
    found = "; ".join(faults(expected, nearest.tensors))
    raise ConfigurationError(f"{path}: does not fit {type(module).__name__}: {found}")
