"""Reaching a module's parameters and buffers by name, and finding out which of them `forward` changes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from operator import attrgetter
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn


class Slot:
    """A buffer by its name: where it is registered, and what was there at first (None: a buffer yet to be filled).

    One tensor that is registered in several places is one buffer, under the first of its names, unless it is rebound.
    """

    __slots__ = ("_current", "_places", "name", "registered")

    def __init__(self, name: str, registered: Tensor | None) -> None:
        self.name = name
        self.registered = registered
        self._current = registered
        # The dict itself as well: getattr and setattr would look through parameters and modules at every call.
        self._places: list[tuple[nn.Module, dict[str, Tensor | None], str]] = []

    def get(self) -> Tensor | None:
        """Return the buffer as it is now, rebound or not, in whichever of its places."""
        for owner, buffers, local in self._places:
            found = _found(owner, buffers, local)
            if found is not self._current:
                return found
        return self._current

    def put(self, tensor: Tensor | None) -> None:
        """Put another tensor in the buffer's place, also where forward has made it a parameter or an attribute."""
        self._current = tensor
        for owner, buffers, local in self._places:
            if local not in buffers:
                owner._parameters.pop(local, None)  # noqa: SLF001
                vars(owner).pop(local, None)
            buffers[local] = tensor

    def add(self, owner: nn.Module, local: str) -> None:
        """Note one more place where the buffer is registered."""
        self._places.append((owner, owner._buffers, local))  # noqa: SLF001

    def part(self) -> bool:
        """Give each place a tensor of its own, if forward has rebound it in some only; say whether it has."""
        if len({id(_found(*place)) for place in self._places}) == 1:
            return False
        for _, buffers, local in self._places:
            buffers[local] = _clone(self.registered)
        return True


def _found(owner: nn.Module, buffers: dict[str, Tensor | None], local: str) -> Tensor | None:
    return buffers[local] if local in buffers else getattr(owner, local, None)


def named(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
    """Yield each place where a buffer is registered: its name, in which module, its name there, and the buffer."""
    for prefix, owner in module.named_modules():
        for local, tensor in owner._buffers.items():  # noqa: SLF001 - `named_buffers` leaves out those that are None
            yield f"{prefix}.{local}" if prefix else local, owner, local, tensor


def slots(module: nn.Module) -> list[Slot]:
    """Return the slots of all buffers, in the order of registration."""
    found: dict[object, Slot] = {}
    for name, owner, local, tensor in named(module):
        key = name if tensor is None else id(tensor)
        found.setdefault(key, Slot(name, tensor)).add(owner, local)
    return list(found.values())


class FrozenBuffer:
    """A buffer that must not change. What shows that it did is another tensor, or a higher version counter."""

    __slots__ = ("_pristine", "_version", "slot", "tensor")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.tensor = slot.registered
        self._version = _version(self.tensor)
        self._pristine = _clone(self.tensor)

    def changed(self) -> bool:
        """Whether the buffer was rebound or written to."""
        return self.slot.get() is not self.tensor or _version(self.tensor) != self._version

    def value_changed(self) -> bool:
        """Whether its values are not the first ones: a few ways to write to a tensor leave no trace."""
        return raw(self.tensor) != raw(self._pristine)

    def restore(self) -> None:
        """Put the first values back."""
        with torch.inference_mode(mode=False):  # in it, tensors are made without a version counter
            self.tensor = _clone(self._pristine)
        self._version = _version(self.tensor)
        self.slot.put(self.tensor)


class Parameters:
    """All parameters of a module, none of which may change. They are not copied: that would take their memory twice."""

    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (f"{prefix}.{local}" if prefix else local, owner._parameters, local, parameter, parameter._version)  # noqa: SLF001
            for prefix, owner in module.named_modules()
            for local, parameter in owner._parameters.items()  # noqa: SLF001
            if parameter is not None
        ]
        self._sums = [crc32(raw(parameter)) for _, _, _, parameter, _ in self._places]

    def changed(self) -> str | None:
        """Name one that was rebound or written to."""
        for name, held, local, parameter, version in self._places:
            if local not in held or held[local] is not parameter or parameter._version != version:  # noqa: SLF001
                return name
        return None

    def drop_gradients(self) -> None:
        """Remove what a forward that differentiates may have left, and another call would see."""
        for _, _, _, parameter, _ in self._places:
            parameter.grad = None
            parameter.requires_grad_(requires_grad=False)

    def value_changed(self) -> str | None:
        """Name one whose values are not the first ones, with or without a trace."""
        for (name, _, _, parameter, _), value in zip(self._places, self._sums, strict=True):
            if crc32(raw(parameter)) != value:
                return name
        return None

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Put the first parameters back, and values into them; where those are not the first ones, all stay changed."""
        for name, held, local, parameter, _ in self._places:
            held[local] = parameter
            if name in values:  # tied weights may be saved under one of their names
                parameter.copy_(values[name])
        if self.value_changed() is None:
            self.accept()

    def accept(self) -> None:
        """Take the parameters for unchanged as they are now: after they were brought to another device."""
        self._places = [
            (name, held, local, parameter, parameter._version)  # noqa: SLF001
            for name, held, local, parameter, _ in self._places
        ]


class Watch:
    """Shows that no parameter and no frozen buffer was rebound or written to, without a look at each in Python.

    Where it does not show that, they need not have changed: forward may have registered others. A tensor of one element
    that was replaced by an equal one has not changed.
    """

    def __init__(self, module: nn.Module, frozen: Iterable[Tensor | None]) -> None:
        self._live = [held for owner in module.modules() for held in (owner._parameters, owner._buffers) if held]  # noqa: SLF001
        self._copies = list(map(dict, self._live))
        self._tensors = [tensor for tensor in (*module.parameters(), *frozen) if tensor is not None]
        self._versions = list(map(_counter, self._tensors))

    def unchanged(self) -> bool:
        """Whether all are as they were when this was made."""
        try:
            return self._live == self._copies and list(map(_counter, self._tensors)) == self._versions
        except RuntimeError:  # of tensors that are not identical, `==` gives no truth value
            return False


_counter: Callable[[Tensor], int] = attrgetter("_version")


class Change(Enum):
    """What `forward` did to a buffer."""

    REBOUND = "rebound by forward"
    WRITTEN = "written in place by forward"


def discover(module: nn.Module, forward: Callable[[Sequence[Slot]], object]) -> dict[str, Change]:
    """Run `forward` once on clones of all buffers and return those it changed, by name; the module stays as it was.

    But one tensor in several places, of which forward rebinds some, becomes one in each: an LSTM's two states may start
    as the same zeros. `forward` is given the slots of the clones.

    "Changed" is rebound or written to, whatever the value: adding zeros leaves a sum as it was. What has another value
    was written to as well: batch_norm moves its statistics without a trace.
    """
    places = slots(module)
    clones = [_clone(place.registered) for place in places]
    versions = [_version(clone) for clone in clones]
    try:
        for place, clone in zip(places, clones, strict=True):
            place.put(clone)
        forward(places)
        changes = {
            place.name: Change.WRITTEN if place.get() is clone else Change.REBOUND
            for place, clone, version in zip(places, clones, versions, strict=True)
            if place.get() is not clone or _version(clone) != version or raw(clone) != raw(place.registered)
        }
    finally:
        parted = [place.part() for place in places]
        for place, apart in zip(places, parted, strict=True):
            if not apart:
                place.put(place.registered)
    return discover(module, forward) if any(parted) else changes


def overlap(module: nn.Module, changes: Mapping[str, Change]) -> tuple[str, str] | None:
    """Name a buffer that forward writes to and another that is a view of the same memory; None where there is none."""
    held = [place for place in slots(module) if place.registered is not None and place.registered.numel()]
    for place in held:
        for other in held:
            if changes.get(place.name) is Change.WRITTEN and other is not place and _meet(place, other):
                return place.name, other.name
    return None


def _meet(one: Slot, other: Slot) -> bool:
    a, b = one.registered, other.registered
    if a is None or b is None or not a.layout is b.layout is torch.strided:
        return False
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    return bool((_footprint(a) & _footprint(b)).any())


def _footprint(tensor: Tensor) -> Tensor:
    """Which of the bytes of a tensor's storage it is made of."""
    bytes_of = torch.zeros(tensor.untyped_storage().nbytes(), dtype=torch.bool)
    size, item = (*tensor.shape, tensor.itemsize), tensor.itemsize
    stride = (*(step * item for step in tensor.stride()), 1)
    bytes_of.as_strided(size, stride, tensor.storage_offset() * item).fill_(value=True)
    return bytes_of


def raw(tensor: Tensor | None) -> bytes:
    """Return the bytes of a tensor's values."""
    if tensor is None:
        return b""
    dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
    flat = dense.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    # Not through Tensor.numpy(), after which forward could no longer resize the tensor, and would corrupt memory.
    return np.from_dlpack(flat).tobytes() if flat.numel() else b""


def _clone(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _version(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor._version  # noqa: SLF001 - torch has no public name for the version counter
