"""Writing a model's folder: the class tried out, its weights, and the manifest that says what was found."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from carryover.cli import arguments, checkpoint, toml
from carryover.cli.checkpoint import StateDict
from carryover.cli.draft import Draft, draft
from carryover.cli.examination import examine
from carryover.cli.figures import name as datatype_name
from carryover.cli.trial import Trial
from carryover.errors import CarryoverError, ConfigurationError
from carryover.runtime import classes, weights
from carryover.runtime.manifest import MODEL_NAME, TensorSpec
from carryover.runtime.repository import Model, load_model

_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the files, and the manifest as a document.

    `notes` are sentences about what was inferred, `problems` about what a user of the model may stumble over.
    """

    files: list[Path]
    manifest: dict[str, Any]
    notes: list[str]
    problems: list[str]
    model: Model


def write(
    folder: Path,
    target: str,
    given_weights: Path | None,
    given_arguments: Mapping[str, Any],
    given_inputs: Mapping[str, TensorSpec],
) -> Written:
    """Write a model's folder, and load it as the service would.

    Weights that lie in the folder already, as those of a version, are taken and left where they are.

    Raises:
        ConfigurationError: a manifest is there already, something cannot be inferred, or the outcome does not load.

    """
    path = folder / "model.toml"
    present = _check(folder, path, given_weights)
    with _Files() as files:
        target = _beside(folder, target, files)
        cls = classes.find(target, path)
        source = given_weights or present
        held = checkpoint.state_dicts(weights.contents(source)) if source else []
        fitted = arguments.fit(cls, given_arguments, [one.tensors for one in held])
        module = classes.build(target, fitted.arguments, path)
        loaded = _load(module, source, held) if source else None
        trial = Trial(module)
        found = draft(trial, given_inputs)
        if present is None:
            _save(module, files.new(folder / "1" / weights.FILES[0]))
        document = {"class": target} | ({"arguments": fitted.arguments} if fitted.arguments else {})
        if present is not None and loaded is not None:
            document |= _weights(present, loaded)
        notes = [_origin(source, loaded), *_converted(module, loaded), *_arguments(fitted)]
        files.new(path)
        try:
            model = _try(path, document, notes, found)
        except CarryoverError as error:
            if not found.batched:
                raise
            found = found.without_batching(f"no batch_dim: {error}")
            model = _try(path, document, notes, found)
        problems = [problem.sentence for problem in examine(folder, None).problems]
        return Written(files.kept, _document(document, found), [*notes, *found.notes], problems, model)


def _try(path: Path, document: Mapping[str, Any], notes: list[str], found: Draft) -> Model:
    """Write the manifest and load the model."""
    path.write_text(_text(document, notes, found))
    path.chmod(_MODE)
    return load_model(path.parent)


def _check(folder: Path, path: Path, given_weights: Path | None) -> Path | None:
    """Refuse to write over anything; return the weights of the folder's highest version, where it has any."""
    name = folder.resolve().name
    if not re.fullmatch(MODEL_NAME, name):
        raise ConfigurationError(f"{folder}: a model's name must match {MODEL_NAME}")
    if path.exists():
        raise ConfigurationError(f"{path}: is there already, and is not written over")
    if given_weights is not None and not given_weights.is_file():
        raise ConfigurationError(f"{given_weights}: there is no such file")
    held = [file for file in folder.glob("[0-9]*/*") if file.name in weights.FILES and file.parent.name.isdecimal()]
    present = max(held, key=lambda file: int(file.parent.name), default=None)
    if present is not None and given_weights is not None:
        raise ConfigurationError(
            f"{present}: is there already, and is not written over; leave --weights out to take it"
        )
    return present


def _beside(folder: Path, target: str, files: "_Files") -> str:
    """Return the class as a manifest names it; a file that lies elsewhere is copied beside the manifest."""
    source, colon, name = target.rpartition(":")
    if not colon:
        raise ConfigurationError(f"--from {target}: expected package.module:Class, or file.py:Class")
    if not source.endswith(".py"):
        return target
    file = Path(source)
    if not re.fullmatch(r"[A-Za-z_]\w*\.py", file.name):
        raise ConfigurationError(f"--from {target}: the name {file.name} cannot be imported; rename the file")
    copy = folder / file.name
    if not copy.exists():
        if not file.is_file():
            raise ConfigurationError(f"--from {target}: there is no file {file}, and none in {folder}")
        shutil.copyfile(file, files.new(copy))
        copy.chmod(_MODE)
    elif file.exists() and file.read_bytes() != copy.read_bytes():
        raise ConfigurationError(f"{copy}: is there already, and is another file than {file}")
    return f"{file.name}:{name}"


def _load(module: nn.Module, source: Path, held: list[StateDict]) -> StateDict:
    """Load the first state dict that fits."""
    expected = module.state_dict()
    if not held and not expected:
        return StateDict((), "", {})
    faults = {index: weights.faults(expected, one.tensors) for index, one in enumerate(held)}
    fitting = [held[index] for index, found in faults.items() if not found]
    if not fitting:
        if not held:
            raise ConfigurationError(f"{source}: holds no tensors by name")
        nearest = max(faults, key=lambda index: len(expected.keys() & held[index].tensors.keys()))
        raise ConfigurationError(f"{source}: does not fit {type(module).__name__}: {'; '.join(faults[nearest])}")
    module.load_state_dict(fitting[0].tensors, strict=False)
    return fitting[0]


def _save(module: nn.Module, path: Path) -> None:
    # Cloned: safetensors refuses tensors that share their memory, as tied weights do.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    try:
        save_file(tensors, path)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be written: {error}") from None
    path.chmod(_MODE)


def _weights(present: Path, loaded: StateDict) -> dict[str, Any]:
    """What the manifest must say of weights that are left as they are."""
    if len(loaded.path) > 1:
        raise ConfigurationError(
            f"{present}: the state dict lies {loaded.place}, deeper than a manifest can say; move the file elsewhere "
            "and pass it with --weights"
        )
    said = {"key": loaded.path[0]} if loaded.path else {}
    said |= {"prefix": loaded.prefix} if loaded.prefix else {}
    return {"weights": said} if said else {}


def _origin(source: Path | None, loaded: StateDict | None) -> str:
    if loaded is None:
        return "weights: the module's own initial values; no checkpoint was given"
    return f"weights: from {source} {loaded.place}".rstrip()


def _converted(module: nn.Module, loaded: StateDict | None) -> list[str]:
    held = loaded.tensors if loaded else {}
    pairs = {
        (datatype_name(held[name]), datatype_name(tensor))
        for name, tensor in module.state_dict().items()
        if name in held and held[name].dtype is not tensor.dtype
    }
    return [f"weights: converted from {given} to the class's {own}" for given, own in sorted(pairs)]


def _arguments(fitted: arguments.Fitted) -> list[str]:
    notes = []
    if fitted.found:
        shown = ", ".join(f"{name} = {fitted.arguments[name]}" for name in fitted.found)
        notes.append(f"arguments: {shown}: the only sizes that make the class fit the checkpoint")
    if fitted.defaults:
        shown = ", ".join(f"{name} = {value!r:.40}" for name, value in fitted.defaults.items())
        which = "all others" if fitted.arguments else "all"
        notes.append(f"arguments: {which} as the class has them: {shown}")
    return notes


def _document(document: Mapping[str, Any], found: Draft) -> dict[str, Any]:
    state = {"state": found.state} if found.state else {}
    return {**document, "inputs": found.inputs, "outputs": found.outputs, **state}


def _text(document: Mapping[str, Any], notes: list[str], found: Draft) -> str:
    """The manifest, each part under the comments that say how it was found."""
    head = {key: document[key] for key in ("class", "arguments") if key in document}
    parts = [
        toml.comment(
            ["Written by `flask --app carryover new`: what stands here was found by running the class.", *notes]
        )
        + f"\n{toml.pairs(head)}"
    ]
    if (count := found.labels) is not None:
        parts.append(toml.comment([f'labels = ["…", "…"]: the names of the {count} values would make it a classifier']))
    for word, specs, why in (("inputs", found.inputs, found.why_inputs), ("outputs", found.outputs, {})):
        for spec in specs:
            comment = toml.comment([why[spec["name"]]]) + "\n" if spec["name"] in why else ""
            parts.append(f"{comment}[[{word}]]\n{toml.pairs(spec)}")
    parts.append(toml.comment([*found.why_state, found.why_batching]))
    parts += [f"{toml.table('state', name)}\n{toml.pairs(given)}".strip() for name, given in found.state.items()]
    if "weights" in document:
        parts.append(f"[weights]\n{toml.pairs(document['weights'])}")
    return "\n\n".join(parts) + "\n"


class _Files:
    """Files that are written together: where an error ends that, none of them is left, nor any folder made for them."""

    def __init__(self) -> None:
        self.kept: list[Path] = []
        self._folders: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def new(self, path: Path) -> Path:
        """Note a file that is about to be written, and make its folder."""
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            self._folders.append(folder)
        self.kept.append(path)
        return path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        for file in self.kept:
            file.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            shutil.rmtree(folder, ignore_errors=True)
