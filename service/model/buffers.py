"""Reaching a module's buffers by name, and finding out which of them `forward` changes."""

from collections.abc import Callable

from torch import Tensor, nn


class Slot:
    """One place in a module tree where a buffer is registered, and the tensor that was there at first."""

    __slots__ = ("_buffers", "_local", "name", "registered")

    def __init__(self, module: nn.Module, name: str, tensor: Tensor) -> None:
        owner, _, local = name.rpartition(".")
        self.name = name
        self.registered = tensor
        self._local = local
        self._buffers = module.get_submodule(owner)._buffers  # noqa: SLF001 - setattr would check and dispatch each time

    def get(self) -> Tensor | None:
        """Return the buffer as it is now, rebound or not."""
        return self._buffers[self._local]

    def put(self, tensor: Tensor) -> None:
        """Put another tensor in the buffer's place."""
        self._buffers[self._local] = tensor


def slots(module: nn.Module) -> list[Slot]:
    """Return the slots of all buffers, in the order of registration."""
    return [Slot(module, name, tensor) for name, tensor in module.named_buffers(remove_duplicate=False)]


class Watched:
    """A buffer that must not change. What shows that it did is another tensor, or a higher version counter."""

    __slots__ = ("_pristine", "_version", "slot", "tensor")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.tensor = slot.registered
        self._version = _version(self.tensor)
        self._pristine = self.tensor.clone()

    def changed(self) -> bool:
        """Whether the buffer was rebound or written to."""
        return self.slot.get() is not self.tensor or _version(self.tensor) != self._version

    def restore(self) -> None:
        """Put the first values back."""
        self.tensor = self._pristine.clone()
        self._version = _version(self.tensor)
        self.slot.put(self.tensor)


def discover(module: nn.Module, forward: Callable[[], object]) -> frozenset[str]:
    """Run `forward` once on clones of all buffers and return the names of those it changed; the module stays as it was.

    "Changed" is rebound or written to, not another value: adding zeros leaves a sum as it was.
    """
    places = slots(module)
    # One clone a tensor: a buffer that is registered under two names stays one.
    clones = {id(place.registered): place.registered.clone() for place in places}
    versions = {key: _version(clone) for key, clone in clones.items()}
    try:
        for place in places:
            place.put(clones[id(place.registered)])
        forward()
        return frozenset(
            place.name
            for place in places
            if place.get() is not (clone := clones[key := id(place.registered)]) or _version(clone) != versions[key]
        )
    finally:
        for place in places:
            place.put(place.registered)


def _version(tensor: Tensor) -> int:
    return tensor._version  # noqa: SLF001 - torch has no public name for the version counter
