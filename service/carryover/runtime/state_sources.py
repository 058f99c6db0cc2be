"""State that is not in buffers: an argument of `forward` with the result that is passed to it next, or an attribute.

Each entry of `[state]` is taken apart into leaves, one for each tensor or number in it. A leaf is read and written as a
buffer's slot is, so a session's bytes do not differ. Which structures an entry may have is learned when the model is
loaded, by running it for several steps; which of them a session has follows from the leaves that are there.
"""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from carryover.errors import ModelFailedError
from carryover.runtime import initial
from carryover.runtime.manifest import FILE_AND_KEY, StateSpec
from carryover.runtime.report import first_line
from carryover.runtime.structure import (
    ABSENT,
    Constant,
    Kind,
    Part,
    Structure,
    UnsupportedValueError,
    capacity,
    flatten,
    pick,
)
from carryover.runtime.structure import unflatten as put_together


class Leaf:
    """A tensor or number of an entry, by its `name` among all state; `path` is where it is in the entry.

    `registered` is what it holds at step 0, None where it is not there then. `fixed`: it is there in every structure of
    the entry, with one datatype. `shapes` are those that it had while the model was loaded.
    """

    __slots__ = ("dtypes", "fixed", "kind", "name", "path", "registered", "shapes", "value")

    def __init__(self, name: str, path: str, kind: Kind) -> None:
        self.name = name
        self.path = path
        self.kind = kind
        self.registered: Tensor | None = None
        self.value: Tensor | None = None
        self.fixed = False
        self.dtypes = set[torch.dtype]()
        self.shapes = dict[tuple[int, ...], None]()

    def get(self) -> Tensor | None:
        """Return what the last forward left."""
        return self.value

    def put(self, tensor: Tensor | None) -> None:
        """Say what the next forward is given."""
        self.value = tensor


class StateEntry(ABC):
    """An entry of `[state]` that is not a buffer."""

    def __init__(self, name: str, spec: StateSpec) -> None:
        self.name = name
        self.spec = spec
        self.leaves: list[Leaf] = []
        self._learning = True
        self._leaves_of: dict[Structure, tuple[int, ...]] = {}
        self._by_presence: dict[frozenset[int], Structure] = {}
        self._guessed: Structure | None = None

    @property
    def forms(self) -> int:
        """How many structures it has had."""
        return len(self._leaves_of)

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, in words."""

    @abstractmethod
    def enter(self, given: dict[str, Any]) -> None:
        """Put the leaves where forward finds them; `given` are its keyword arguments."""

    @abstractmethod
    def leave(self, returned: Any) -> None:
        """Read the leaves from where forward has left them, or from what it `returned`."""

    def restore(self) -> None:  # noqa: B027 - an argument leaves nothing behind
        """Put back what was there before."""

    def start_from(self, value: Any) -> None:
        """Take a value for what the entry is at step 0."""
        self.leaves.clear()
        self._leaves_of.clear()
        self._by_presence.clear()
        self._take(value)
        for leaf in self.leaves:
            leaf.registered = None if leaf.value is None else leaf.value.clone()
        if self.spec.shape is not None:  # tuples, where forward may leave lists
            (self._guessed,) = self._leaves_of

    def settle(self) -> None:
        """Learn no more: from now on, another structure is an error."""
        self._learning = False
        for index, leaf in enumerate(self.leaves):
            everywhere = all(index in held for held in self._leaves_of.values())
            leaf.fixed = everywhere and leaf.registered is not None and len(leaf.dtypes) == 1
            leaf.value = None

    @property
    def capacity(self) -> int:
        """How many elements the deques in it may have."""
        return max(map(capacity, self._leaves_of), default=0)

    def zeros(self) -> Any:
        """Return the entry as it was left last, all numbers zero."""
        return put_together(self._structure(), iter([torch.zeros_like(held) for held in self._held()]))

    def _fill(self) -> Any:
        """Put the entry together from its leaves."""
        return put_together(self._structure(), iter(self._held()))

    def _held(self) -> list[Tensor]:
        values = [self.leaves[index].value for index in self._leaves_of[self._structure()]]
        return [value for value in values if value is not None]

    def _structure(self) -> Structure:
        present = frozenset(index for index, leaf in enumerate(self.leaves) if leaf.value is not None)
        try:
            return self._by_presence[present]
        except KeyError:
            held = ", ".join(self.leaves[index].name for index in sorted(present)) or "nothing"
            raise ModelFailedError(
                f"state.{self.name}: a state that holds {held} has no structure that forward was seen to leave"
            ) from None

    def _take(self, value: Any) -> None:
        """Take the entry apart into its leaves."""
        try:
            parts, structure = flatten(value)
        except UnsupportedValueError as error:
            raise ModelFailedError(
                f"state.{self.name}: {error}; state is made of tensors and numbers in tuples, lists, dicts and objects"
            ) from None
        known = self._leaves_of.get(structure)
        if known is None or self._learning:
            known = self._learn(parts, structure)
        for leaf in self.leaves:
            leaf.value = None
        for index, part in zip(known, parts, strict=True):
            self.leaves[index].value = part.tensor

    def _learn(self, parts: Sequence[Part], structure: Structure) -> tuple[int, ...]:
        if not self._learning:
            raise ModelFailedError(
                f"state.{self.name}: forward left another structure than any that it left when the model was loaded; "
                "what grows is to grow within a tensor"
            )
        indices = tuple(map(self._index, parts))
        for index, part in zip(indices, parts, strict=True):
            self.leaves[index].dtypes.add(part.tensor.dtype)
            self.leaves[index].shapes[tuple(part.tensor.shape)] = None
        present = frozenset(indices)
        other = self._by_presence.get(present)
        if other in (None, self._guessed):
            self._by_presence[present] = other = structure
        # A result of None is passed on by leaving the argument out, as at step 0.
        if other != structure and {other, structure} != {Constant(None), Constant(ABSENT)}:
            raise ModelFailedError(
                f"state.{self.name}: its structure changes from step to step where its tensors and numbers do not: "
                "what changes besides them cannot be stored"
            )
        return self._leaves_of.setdefault(structure, indices)

    def _index(self, part: Part) -> int:
        path = ".".join(part.path)
        for index, leaf in enumerate(self.leaves):
            if (leaf.path, leaf.kind) == (path, part.kind):
                return index
        name = f"{self.name}.{path}" if path else self.name
        if any(leaf.name == name for leaf in self.leaves):  # a number at first, and a tensor later
            name = f"{name}.{part.kind.value}"
        self.leaves.append(Leaf(name, path, part.kind))
        return len(self.leaves) - 1


class ArgumentState(StateEntry):
    """State that forward takes as an argument and returns: `output` is the path of that result."""

    def __init__(self, name: str, spec: StateSpec) -> None:
        super().__init__(name, spec)
        self.parameter = spec.input or name
        self.path = path_of(spec.output)

    @property
    def place(self) -> str:  # noqa: D102
        if self.spec.increment is not None:
            return f"the argument {self.parameter!r}, which counts by {self.spec.increment}"
        return f"the argument {self.parameter!r}, from the result {'.'.join(self.path) or 'as a whole'}"

    def enter(self, given: dict[str, Any]) -> None:  # noqa: D102
        if (value := self._fill()) is not ABSENT:
            given[self.parameter] = value

    def leave(self, returned: Any) -> None:  # noqa: D102
        if self.spec.increment is not None:
            self._take(self._fill() + self.spec.increment)
            return
        try:
            value = pick(returned, self.path)
        except LookupError as error:
            raise ModelFailedError(
                f"state.{self.name}: output = {self.spec.output!r}: forward returned no such result: {error}"
            ) from None
        self._take(value)


class AttributeState(StateEntry):
    """State in an attribute of the module, or of what it holds; with a `*` in its name, in those of several parts.

    Of several, the entry is a dict by what the `*` stands for.
    """

    def __init__(self, name: str, spec: StateSpec, module: nn.Module) -> None:
        super().__init__(name, spec)
        *path, last = path_of(spec.attribute)
        self._attribute, self._several = spec.attribute, "*" in path
        try:
            owners = list(_owners(module, path))
        except LookupError as error:
            raise ModelFailedError(f"state.{name}: attribute = {spec.attribute!r}: {error}") from None
        places = {stars: _Location(owner, last) for stars, owner in owners}
        self._places = {stars: one for stars, one in places.items() if not self._several or one.get() is not ABSENT}
        if not self._places:
            raise ModelFailedError(f"state.{name}: attribute = {spec.attribute!r}: no part of the module has it")
        self.original = self._get()

    @property
    def place(self) -> str:  # noqa: D102
        return f"the attribute {self._attribute!r}"

    def enter(self, given: dict[str, Any]) -> None:  # noqa: ARG002, D102
        self._set(self._fill())

    def leave(self, returned: Any) -> None:  # noqa: ARG002, D102
        self._take(self._get())

    def restore(self) -> None:  # noqa: D102
        self._set(self.original)

    def _get(self) -> Any:
        held = {stars: place.get() for stars, place in self._places.items()}
        return held if self._several else held[""]

    def _set(self, value: Any) -> None:
        for stars, place in self._places.items():
            place.set(value[stars] if self._several else value)


class _Location:
    """An attribute, key or index of something."""

    def __init__(self, owner: Any, last: str) -> None:
        self._owner = owner
        self._last = last

    def get(self) -> Any:
        """Return what is there."""
        try:
            return pick(self._owner, (self._last,))
        except LookupError:
            return ABSENT

    def set(self, value: Any) -> None:
        """Put a value there; nothing is left there for an absent one."""
        if isinstance(self._owner, (dict, list)):
            key: Any = int(self._last) if isinstance(self._owner, list) else self._last
            if value is ABSENT:
                self._owner.pop(key)
            else:
                self._owner[key] = value
        elif value is not ABSENT:
            setattr(self._owner, self._last, value)
        elif hasattr(self._owner, self._last):
            delattr(self._owner, self._last)


def _owners(value: Any, path: Sequence[str], stars: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield what the stars in a path stand for, dotted, and what lies there.

    Raises:
        LookupError: nothing does, but for stars.

    """
    if not path:
        yield ".".join(stars), value
    elif path[0] != "*":
        yield from _owners(pick(value, path[:1]), path[1:], stars)
    else:
        for key in _keys(value):
            with suppress(LookupError):
                yield from _owners(pick(value, (key,)), path[1:], (*stars, key))


def _keys(value: Any) -> list[str]:
    """What a star may stand for: the parts of a module, the keys or indices of a container."""
    if isinstance(value, nn.Module):
        return [name for name, _ in value.named_children()]
    return list(map(str, value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()))


def places(module: nn.Module, attribute: str) -> set[str]:
    """Return the names of the attributes that a name with stars stands for."""
    *path, last = path_of(attribute)
    return {
        ".".join((*_filled(path, stars.split(".")), last))
        for stars, owner in _owners(module, path)
        if _Location(owner, last).get() is not ABSENT
    }


def _filled(path: Sequence[str], stars: Sequence[str]) -> list[str]:
    left = iter(stars)
    return [next(left) if part == "*" else part for part in path]


def path_of(text: str | int | None) -> tuple[str, ...]:
    """Return the parts of a dotted path; none for the whole."""
    return tuple(str(text).split(".")) if text not in (None, "") else ()


def entries(specs: Mapping[str, StateSpec], module: nn.Module, method: Callable[..., Any]) -> list[StateEntry]:
    """Return the entries of a manifest that are not buffers, each as it is at step 0.

    Raises:
        ModelFailedError: `method` has no such parameter, or cannot do without it; there is no such attribute, or it
            holds what cannot be stored.

    """
    found: list[StateEntry] = []
    for name, spec in specs.items():
        if spec.buffer:
            continue
        entry = AttributeState(name, spec, module) if spec.attribute is not None else ArgumentState(name, spec)
        start = _initial(entry, module)
        if isinstance(entry, ArgumentState):
            _check_parameter(entry, method, given=start is not ABSENT)
        entry.start_from(start)
        found.append(entry)
    return found


def _check_parameter(entry: ArgumentState, method: Callable[..., Any], *, given: bool) -> None:
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):
        return
    called = getattr(method, "__name__", "forward")
    if entry.parameter not in parameters:
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
        known = ", ".join(map(repr, parameters))
        raise ModelFailedError(
            f"state.{entry.name}: {called} has no parameter {entry.parameter!r}; its parameters are {known}"
        )
    if parameters[entry.parameter].default is inspect.Parameter.empty and not given:
        raise ModelFailedError(
            f'state.{entry.name}: {called} cannot do without {entry.parameter!r}; say initial = "zeros" and the shape '
            "that it has at step 0, as in shape = [1, 1, 16]"
        )


def _initial(entry: StateEntry, module: nn.Module) -> Any:
    """What an entry is at step 0; zeros without a shape are made once it is known what forward leaves."""
    spec = entry.spec
    if spec.initial == "zeros" and spec.shape is not None:
        return _zeros(spec.shape, spec)
    if spec.initial == "empty":
        return []
    if spec.increment is not None and spec.initial is None:
        return 0
    if spec.initial in ("zeros", "class", None):
        return entry.original if isinstance(entry, AttributeState) else ABSENT
    if re.fullmatch(FILE_AND_KEY, spec.initial):
        return initial.from_file(entry.name, spec.initial)
    try:
        held = pick(module, path_of(spec.initial))
    except LookupError as error:
        raise ModelFailedError(
            f'state.{entry.name}: initial = {spec.initial!r}: expected "zeros", "class" or an attribute or method; '
            f"{error}"
        ) from None
    return _made(entry, held) if inspect.ismethod(held) else held


def _made(entry: StateEntry, method: Callable[..., Any]) -> Any:
    try:
        return initial.from_method(method)
    except Exception as error:
        raise ModelFailedError(f"state.{entry.name}: initial = {entry.spec.initial!r}: {first_line(error)}") from error


def _zeros(shape: Any, spec: StateSpec) -> Any:
    """A tensor of zeros, or a tuple or dict of them where the shape holds shapes."""
    if isinstance(shape, dict):
        return {key: _zeros(inner, spec) for key, inner in shape.items()}
    if all(isinstance(size, int) for size in shape):
        return torch.zeros(tuple(shape), dtype=spec.datatype.torch)
    return tuple(_zeros(inner, spec) for inner in shape)
