"""What a manifest must say so that a checkpoint fits its class: where in the file it is, and under which names."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from carryover.errors import ConfigurationError
from carryover.runtime import classes, toml
from carryover.runtime import manifest as manifests
from carryover.runtime.manifest import WeightsSpec
from carryover.runtime.weights import Group, StateDict, adapt, faults, read, renamed, starts, state_dicts

_MOST_PAIRS = 1_000_000
"""Of names of the class and of the checkpoint, for which new names are looked for."""

Expected = Mapping[str, Any]
"""The state dict of a module as its class makes it."""


def advise(path: Path, expected: Expected, buffers: Collection[str] = ()) -> str | None:
    """Return the line of a manifest with which a checkpoint fits; None where no line was found.

    `buffers` are names that a checkpoint may lack, as those of state.
    """
    tensors = {name: value for name, value in expected.items() if isinstance(value, Tensor)}
    try:
        held = state_dicts(path)
        there = {name for one in held for name in one.tensors}
        tensors = {
            name: value
            for name, value in tensors.items()
            if name not in buffers or name in there or name.partition(".")[2] in there
        }
        for said in chain(_places(held, tensors), _parts(held, tensors), _names(held, tensors)):
            given = adapt(expected, read(path, WeightsSpec(**said))) if said else {}
            needed = {name: value for name, value in expected.items() if name in given or name not in buffers}
            if said and not faults(needed, given):
                return f"weights = {toml.inline(said)}"
    except ConfigurationError:
        pass  # what is wrong with the file is said where it is read
    return None


def fit(path: Path, folder: Path | None) -> str | None:
    """Say whether a checkpoint fits the class of the model in a folder, or what the manifest there must say.

    Without a folder it is that of the model that the checkpoint lies in. None where there is no such class.

    Raises:
        ConfigurationError: the manifest is invalid, or its class cannot be made.

    """
    version = path.absolute().parent
    places = [version, version.parent] if folder is None else [folder]
    manifest = next((place / "model.toml" for place in places if folder or (place / "model.toml").is_file()), None)
    if manifest is None:
        return None
    described, wrong = manifests.read(manifest)
    if described is None:
        raise ConfigurationError(wrong[0])
    if described.target is None:
        return None
    module = classes.build(described.target, described.arguments, manifest)
    expected, buffers = module.state_dict(), {name for name, _ in module.named_buffers()}
    called = type(module).__name__
    try:
        given = adapt(expected, read(path, described.weights))
        found = faults({name: held for name, held in expected.items() if name in given or name not in buffers}, given)
    except ConfigurationError as error:
        found = [str(error)]
    if not found:
        return f"It fits {called} as the manifest is."
    line = advise(path, expected, buffers)
    return (
        f"It fits {called} if the manifest says {line}." if line else f"It does not fit {called}: {'; '.join(found)}."
    )


def parts(groups: Sequence[Group]) -> Iterator[str]:
    """Say what a manifest must say where each part of a module has a state dict of its own in a checkpoint."""
    beside: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        if group.path and len(group.tensors) > 1 and not any(key.isdecimal() for key in group.path):
            beside.setdefault(group.path[:-1], []).append(group.path[-1])
    for outer, names in beside.items():
        if len(names) > 1:
            keys = {name: ".".join((*outer, name)) for name in names}
            yield f"Where these are parts of one module, a manifest says [weights] key = {toml.inline(keys)}."


def _places(held: list[StateDict], expected: Expected) -> Iterator[dict[str, Any]]:
    """The state dicts that fit as they are, without what wrappers put before names."""
    return (_place(one) for one in held if not faults(expected, adapt(expected, dict(one.tensors))))


def _place(one: StateDict) -> dict[str, Any]:
    said = {"key": ".".join(one.path)} if one.path else {}
    return said | ({"prefix": one.prefix} if one.prefix else {})


def _parts(held: list[StateDict], expected: Expected) -> Iterator[dict[str, Any]]:
    """A state dict for each part of the module."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in expected.items():
        part, _, inner = name.partition(".")
        parts.setdefault(part, {})[inner] = value
    found = {
        part: ".".join(one.path)
        for part, inner in parts.items()
        for one in reversed([one for one in held if not one.prefix and one.path])
        if not faults(inner, adapt(inner, dict(one.tensors)))
    }
    if len(found) == len(parts) > 1:
        yield {"key": found}


def _names(held: list[StateDict], expected: Expected) -> Iterator[dict[str, Any]]:
    """State dicts that fit under other names, or without some of their tensors; those that have most names first."""
    for one in sorted(held, key=lambda one: -len(expected.keys() & one.tensors.keys())):
        given = adapt(expected, dict(one.tensors))
        rename = _renamed(expected, given)
        names = {renamed(name, rename): name for name in given}
        extra = names.keys() - expected.keys()
        left = {name: given[old] for name, old in names.items() if name not in extra}
        if left and not faults(expected, left):
            ignore = _ignored(expected, [names[name] for name in extra])
            yield _place(one) | ({"rename": rename} if rename else {}) | ({"ignore": ignore} if ignore else {})


def _renamed(expected: Expected, given: Mapping[str, Any]) -> dict[str, str]:
    """What names start with in the checkpoint, and what the class calls it; nothing of which there are two choices."""
    found: dict[str, str] = {}
    while len(expected) * len(given) < _MOST_PAIRS:
        names = {renamed(name, found): name for name in given}
        extra = {name: given[old] for name, old in names.items() if name not in expected}
        missing = {name: value for name, value in expected.items() if name not in names}
        ranked = sorted(_mapped(extra, missing).items(), key=lambda one: (-len(one[1]), one[0]))
        if not ranked:
            break
        ((old, new), mapped), *others = ranked
        if old in found or any(other[0] == old and len(held) == len(mapped) for other, held in others):
            break
        found[old] = new
    return found


def _mapped(extra: Mapping[str, Any], missing: Expected) -> dict[tuple[str, str], list[str]]:
    """Ways to rename a module or tensor under which all of it fits, with the names that then do."""
    found: dict[tuple[str, str], list[str]] = {}
    for old, new in {way for one in extra for other in missing for way in _ways(one, other)}:
        names = [name for name in extra if starts(name, old)]
        if all(_same_shape(missing.get(renamed(name, {old: new})), extra[name]) for name in names):
            found[old, new] = names
    return found


def _ways(one: str, other: str) -> Iterator[tuple[str, str]]:
    """What two names start with, where they end with the same."""
    old, new = one.split("."), other.split(".")
    while len(old) > 1 and len(new) > 1 and old[-1] == new[-1]:
        old.pop()
        new.pop()
        yield ".".join(old), ".".join(new)


def _same_shape(one: object, other: object) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape


def _ignored(expected: Expected, extra: list[str]) -> list[str]:
    """The modules of tensors that the class has not, as far out as nothing else is in them."""
    found: dict[str, None] = {}
    for name in extra:
        ends = [at for at, char in enumerate(name) if char == "."]
        outer = (name[:end] for end in ends if not any(starts(held, name[:end]) for held in expected))
        found[next(outer, name)] = None
    return list(found)
