"""Checkpoints of which nothing is known: every state dict in them, however deep a training script put it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What DataParallel, `torch.compile` and training frameworks put before every name."""
_HINTS = {
    "running_mean": "named like the running mean of a BatchNorm: a frozen buffer",
    "running_var": "named like the running variance of a BatchNorm: a frozen buffer",
    "num_batches_tracked": "named like the batch counter of a BatchNorm: a frozen buffer",
}


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


def groups(contents: Any, path: tuple[str, ...] = ()) -> Iterator[Group]:
    """Yield a checkpoint's dicts and lists that hold tensors, from the outside in."""
    if isinstance(contents, Tensor):
        yield Group(path, {"": contents}, {})
        return
    if isinstance(contents, Mapping):
        items = [(str(key), value) for key, value in contents.items()]
    elif isinstance(contents, (list, tuple)):
        items = [(str(number), value) for number, value in enumerate(contents)]
    else:
        return
    tensors = {key: value for key, value in items if isinstance(value, Tensor)}
    nested = {key: value for key, value in items if isinstance(value, (Mapping, list, tuple))}
    others = {
        key: f"{value!s:.60}" if isinstance(value, (int, float, str, bool)) else type(value).__name__
        for key, value in items
        if key not in tensors and key not in nested
    }
    if tensors or others:
        yield Group(path, tensors, others)
    for key, value in nested.items():
        yield from groups(value, (*path, key))


def hint(name: str) -> str:
    """Return what a tensor's name alone suggests; nothing for most."""
    return _HINTS.get(name.rpartition(".")[2], "")


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


def state_dicts(contents: Any) -> list[StateDict]:
    """Return everything in a checkpoint that could be a module's state dict.

    A dict whose names all have a wrapper's prefix is there as it is, and without it.
    """
    return [
        StateDict(group.path, prefix, {name.removeprefix(prefix): held for name, held in group.tensors.items()})
        for group in groups(contents)
        if group.tensors and "" not in group.tensors
        for prefix in ("", *group.prefixes())
    ]
