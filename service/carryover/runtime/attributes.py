"""Putting back what a forward leaves in its module's attributes: what one call keeps there, no other call may see.

A module's attributes are compared with those that it had when it was loaded after each forward, and put back where they
differ. Comparing costs about 1.5 µs for a module of two layers and 50 µs for one of 70, so it is done by C code: each
`__dict__`, dict, list, deque and set is compared with a copy of itself, which takes what is identical for equal.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carryover.errors import ModelFailedError
from carryover.runtime import guard
from carryover.runtime.structure import slots_of, vars_of

_DEPTH = 4
_CLOSELY = 64
"""Entries of a container that are compared one by one; of a larger one only the number, unless it changes at load."""
_SMALL_ARRAY = 4096
"""Bytes. numpy notes nowhere that an array was written to, so its bytes are compared."""
_REGISTRIES = ("_parameters", "_buffers")
_INTERNAL = ("_modules", "_forward_hooks", "_forward_pre_hooks")
"""What every module has and a forward depends on."""
_version = attrgetter("_version")


class _Container:
    """A `__dict__`, dict, list, deque or set, and a copy of it.

    `attribute` is the dotted name of the module's attribute that holds it; empty for a module's own `__dict__`, whose
    `prefix` is the module's name. `internal`: it is one of those that every `nn.Module` has.
    """

    def __init__(self, held: Any, attribute: str, prefix: str = "", *, internal: bool = False) -> None:
        self.held = held
        self.saved = _copy(held)
        self.attribute = attribute
        self.prefix = prefix
        self.internal = internal

    def differing(self) -> str | None:
        """Name the attribute that differs, or whose contents do."""
        if self.attribute:
            return None if _equal(self.held, self.saved) else self.attribute
        for key in self.held.keys() | self.saved.keys():
            if key not in self.held or key not in self.saved or not _equal(self.held[key], self.saved[key]):
                return guard.dotted(self.prefix, key)
        return None

    def restore(self) -> None:
        """Put back what was in it."""
        if isinstance(self.held, dict):
            for key in self.held.keys() - self.saved.keys():
                del self.held[key]
            self.held.update(self.saved)
        elif isinstance(self.held, list):
            self.held[:] = self.saved
        elif isinstance(self.held, (deque, set)):
            self.held.clear()
            (self.held.extend if isinstance(self.held, deque) else self.held.update)(self.saved)


class _Slots:
    """An object with slots, and what they held."""

    def __init__(self, held: Any, attribute: str) -> None:
        self.held = held
        self.attribute = attribute
        self.saved = {name: getattr(held, name) for name in slots_of(held)}

    def differing(self) -> str | None:
        """Name the attribute, if a slot holds something else."""
        now = {name: getattr(self.held, name) for name in slots_of(self.held)}
        same = now.keys() == self.saved.keys() and all(_equal(now[name], self.saved[name]) for name in now)
        return None if same else self.attribute

    def restore(self) -> None:
        """Put back what they held."""
        for name in slots_of(self.held):
            delattr(self.held, name)
        for name, value in self.saved.items():
            setattr(self.held, name, value)


class _Registry:
    """A module's dict of parameters or buffers, and the names in it; the values have checks of their own."""

    def __init__(self, held: dict[str, Any], prefix: str) -> None:
        self.held = held
        self.names = frozenset(held)
        self.prefix = prefix

    def differing(self) -> str | None:
        """Name an entry that a forward has registered."""
        return next((guard.dotted(self.prefix, name) for name in self.held if name not in self.names), None)

    def restore(self) -> None:
        """Remove what a forward has registered."""
        for name in self.held.keys() - self.names:
            del self.held[name]


class _Values:
    """A tensor or array that an attribute holds, and a copy of its values; None where it cannot be copied."""

    def __init__(self, held: Any, attribute: str) -> None:
        self.held = held
        self.attribute = attribute
        self.saved: Any = None
        self.traced = isinstance(held, Tensor) and not held.is_inference()
        self.version = held._version if self.traced else 0  # noqa: SLF001 - torch has no public name for it
        with suppress(RuntimeError):  # there are tensors of which torch makes no copies
            self.saved = held.detach().clone() if isinstance(held, Tensor) else held.copy()

    def differing(self) -> str | None:
        """Name the attribute, if its values were written to."""
        same = self.version == _version(self.held) if self.traced else self.saved is None or self._same()
        return None if same else self.attribute

    def restore(self) -> None:
        """Put the values back, and the shape."""
        if isinstance(self.held, np.ndarray):
            np.copyto(self.held, self.saved)
        elif self.held.shape == self.saved.shape:
            self.held.detach().copy_(self.saved)
        else:
            self.held.set_(self.saved.clone())
        self.version = self.held._version if self.traced else 0  # noqa: SLF001

    def _same(self) -> bool:
        return guard.mark(self.held) == guard.mark(self.saved)


class Snapshot:
    """All that a module holds beside parameters and buffers, as it is now, and how to return to it."""

    def __init__(self, module: nn.Module, closely: Collection[str] = ()) -> None:
        self.containers: list[_Container] = []
        self.registries: list[_Registry] = []
        self.values: list[_Values] = []
        self.slots: list[_Slots] = []
        owners = list(module.modules())
        self._seen = {id(held) for owner in owners for name in _REGISTRIES for held in _registered(owner, name)}
        self._packages = {_package(type(owner)) for owner in owners} - {"torch"}
        for prefix, owner in guard.named_modules(module):
            self._add_module(prefix, owner)
        del self._seen
        self._arm(closely)

    def changed(self) -> bool:
        """Whether anything differs; a tensor of one element that was replaced by an equal one does not."""
        try:
            return (
                self._live != self._copies
                or any(self._empty)
                or list(map(len, self._sized)) != self._sizes
                or (bool(self._tensors) and list(map(_version, self._tensors)) != self._versions)
                or any(map(_Values.differing, self._untraced))
                or any(map(_Slots.differing, self.slots))
            )
        except Exception:  # noqa: BLE001 - of tensors and arrays that are not identical, `==` gives no truth value
            return True

    def differences(self) -> Iterator[Any]:
        """Yield what differs."""
        everything: list[_Container | _Registry | _Values | _Slots] = [*self.containers, *self.registries]
        for held in (*everything, *self.values, *self.slots):
            if held.differing() is not None:
                yield held

    def restore(self, *, internals: bool = True) -> list[str]:
        """Put back what differs and return the names of the attributes; `internals` says whether hooks are as well.

        Raises:
            ModelFailedError: some cannot be put back. All others were.

        """
        names, failed = [], ""
        with torch.inference_mode(mode=False), torch.no_grad():  # in it, tensors are made without a version counter
            for held in self.differences():
                if internals or not getattr(held, "internal", False):
                    name = held.differing()
                    try:
                        held.restore()
                        names.append(name)
                    except Exception:  # noqa: BLE001 - whatever a class of containers or torch has against it
                        failed = failed or name
        if failed:
            raise ModelFailedError(
                f"forward changed the attribute {failed!r}, which cannot be put back; what is to change belongs in a "
                "buffer (register_buffer)"
            )
        self._versions = list(map(_version, self._tensors))
        return names

    def apply(self, attributes: Collection[str]) -> None:
        """Return to the snapshot in some attributes."""
        with torch.inference_mode(mode=False), torch.no_grad():
            self._leave_inference_mode()
            for held in self.containers:
                if held.attribute in attributes:
                    held.restore()
                elif not held.attribute:
                    for key in held.held.keys() | held.saved.keys():
                        if guard.dotted(held.prefix, key) in attributes:
                            _set(held.held, held.saved, key)
            for slots in self.slots:
                if slots.attribute in attributes:
                    slots.restore()
            for values in self.values:
                if values.attribute in attributes and values.saved is not None:
                    values.restore()

    def _leave_inference_mode(self) -> None:
        """Take copies in the place of tensors that were made in inference mode: only these show when they change."""
        copies: dict[int, Tensor] = {}

        def copied(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.is_inference()):
                return value
            return copies.setdefault(id(value), value.clone())

        for held in self.containers:
            if isinstance(held.saved, dict):
                held.saved = {key: copied(value) for key, value in held.saved.items()}
            elif isinstance(held.saved, (list, deque)):
                held.saved = type(held.saved)(map(copied, held.saved))

    def _add_module(self, prefix: str, owner: nn.Module) -> None:
        space = vars(owner)
        self.containers.append(_Container(space, "", prefix))
        for key, value in tuple(space.items()):
            if key in _REGISTRIES:
                if isinstance(value, dict):
                    self.registries.append(_Registry(value, prefix))
            elif key in guard.PLAIN:
                if key in _INTERNAL and isinstance(value, dict):
                    self.containers.append(_Container(value, guard.dotted(prefix, key), internal=True))
            else:
                self._add(value, guard.dotted(prefix, key), _DEPTH)

    def _add(self, value: Any, attribute: str, depth: int) -> None:
        if id(value) in self._seen or not depth:
            return
        self._seen.add(id(value))
        if isinstance(value, (Tensor, np.ndarray)):
            self.values.append(_Values(value, attribute))
        elif isinstance(value, (dict, list, tuple, deque, set)):
            if not isinstance(value, tuple):
                self.containers.append(_Container(value, attribute))
            if len(value) <= _CLOSELY:
                for held in value.values() if isinstance(value, dict) else value:
                    self._add(held, attribute, depth - 1)
        elif not isinstance(value, (nn.Module, type)) and _package(type(value)) in self._packages:
            # An object of a class of the model's own: loggers and the like belong to others as well.
            self._add(vars_of(value), attribute, depth)
            if slots_of(value):
                self.slots.append(_Slots(value, attribute))
                for held in self.slots[-1].saved.values():
                    self._add(held, attribute, depth - 1)

    def _arm(self, closely: Collection[str]) -> None:
        """Prepare what `changed` compares."""
        near: list[_Container] = []
        far: list[_Container] = []
        for held in self.containers:
            own = not held.attribute or held.internal or held.attribute in closely
            (near if own or len(held.saved) <= _CLOSELY else far).append(held)
        self._live = [held.held for held in near if held.saved]
        self._copies = [held.saved for held in near if held.saved]
        registries = [registry.held for registry in self.registries]
        counted = [*(held.held for held in far), *registries]
        self._empty = [held for held in (*(held.held for held in near), *registries) if not held]
        self._sized = [held for held in counted if held]
        self._sizes = list(map(len, self._sized))
        self._tensors = [values.held for values in self.values if values.traced]
        self._versions = list(map(_version, self._tensors))
        self._untraced = [
            values
            for values in self.values
            if not values.traced and (values.held.nbytes <= _SMALL_ARRAY or values.attribute in closely)
        ]


class Attributes:
    """A module's attributes, which are put back after each forward once it is known what they are put back to.

    Those of the module as it was constructed come first. But what the first forward fills in, and no later one changes,
    may be worth keeping, if it is the same whatever the input: a table of positions, a session of another runtime.
    """

    def __init__(self, module: nn.Module, buffers: Collection[str]) -> None:
        self._module = module
        self._buffers = buffers
        self._constructed: Snapshot | None = Snapshot(module)
        self._baseline: Snapshot | None = None
        self._training = [(vars(owner), owner.training) for owner in module.modules()]
        self._marks = self.marks()
        self._first = self._marks
        self.restored: list[str] = []
        self._known = set[str]()

    def marks(self, *, identities: bool = True) -> dict[str, object]:
        """Return what tells, for each attribute by name, whether its value has changed, as `guard.marks` does."""
        return guard.marks(self._module, self._buffers, identities=identities)

    def note_first_call(self) -> None:
        """Note what the dry run has filled in."""
        self._first = self.marks()

    def put_back(self) -> list[str]:
        """Put back what a forward has changed, and return what none had changed before; in loading, only the mode.

        Raises:
            ModelFailedError: something cannot be put back.

        """
        if self._baseline is None:
            for space, training in self._training:
                if space.get("training") is not training:
                    space["training"] = training
        elif self._baseline.changed():
            new = [name for name in self._baseline.restore() if name not in self._known]
            self._known.update(new)
            return new
        return []

    def accept(self) -> None:
        """Take the attributes for unchanged as they are now: after the module was moved to another device."""
        if self._baseline is not None:
            self._baseline = Snapshot(self._module, self.restored)

    @contextmanager
    def rewound(self) -> Iterator[None]:
        """Have the module as it was constructed, and in the end as it is now."""
        now = Snapshot(self._module)
        try:
            if self._constructed is not None:
                self._constructed.restore(internals=False)
            yield
        finally:
            now.restore(internals=False)

    def settle(self, run: Callable[[], object]) -> None:
        """Decide what the attributes are put back to, and do so from now on; `run` is a call on an example.

        Raises:
            ModelFailedError: forward fails on attributes that were put back.

        """
        constructed, now = self._constructed, self.marks()
        self._constructed = None
        changed = [name for name in now | self._marks if now.get(name) != self._marks.get(name)]
        if constructed is None or not changed:
            self._baseline = Snapshot(self._module)
            return
        self._known.update(changed)
        after = Snapshot(self._module)
        once = [name for name in changed if now.get(name) == self._first.get(name)]
        kept = self._independent(constructed, once, run)
        failure: ModelFailedError | None = None
        for attributes in (kept, [], changed):
            constructed.restore(internals=False)
            after.apply(attributes)
            self._baseline = Snapshot(self._module, changed)
            try:
                run()
                run()
            except ModelFailedError as error:
                failure = failure or error
                self._baseline = None
                continue
            self.restored = [name for name in changed if name not in attributes]
            return
        raise failure or ModelFailedError(f"forward changes the attribute {changed[0]!r}")

    def _independent(self, constructed: Snapshot, names: list[str], run: Callable[[], object]) -> list[str]:
        """Return which attributes are the same after a first call on another input."""
        if not names:
            return []
        before = guard.marks(self._module, self._buffers, identities=False)
        try:
            constructed.restore(internals=False)
            run()
        except ModelFailedError:
            return names  # a module that its first call has made another one, as lazy layers do
        after = guard.marks(self._module, self._buffers, identities=False)
        return [name for name in names if before.get(name) == after.get(name)]


def _copy(held: Any) -> Any:
    if isinstance(held, dict):
        return dict(held)
    return deque(held, held.maxlen) if isinstance(held, deque) else (list if isinstance(held, list) else set)(held)


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # noqa: BLE001 - tensors, arrays, and what holds them
        return False


def _set(held: dict[Any, Any], saved: dict[Any, Any], key: Any) -> None:
    if key in saved:
        held[key] = saved[key]
    else:
        held.pop(key, None)


def _registered(owner: nn.Module, name: str) -> Collection[Any]:
    registry = vars(owner).get(name)
    return registry.values() if isinstance(registry, dict) else ()


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]
