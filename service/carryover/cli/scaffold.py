"""Writing a model's folder: its class file, its weights, and the manifest that says what was found."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from carryover import settings
from carryover.cli import arguments
from carryover.cli.checkpoint import StateDict, state_dicts
from carryover.cli.infer_manifest import Draft, infer
from carryover.cli.report import VersionReport, version_report
from carryover.errors import ConfigurationError
from carryover.runtime import classes, weights
from carryover.runtime.forward import called
from carryover.runtime.manifest import MODEL_NAME, TensorSpec

_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Scaffold:
    """What was written: the files, and the manifest as a document.

    `notes` are sentences about what was inferred; `report` is that of `inspect`.
    """

    files: list[Path]
    manifest: dict[str, Any]
    notes: list[str]
    report: VersionReport


def scaffold(
    folder: Path,
    target: str,
    checkpoint: Path | None,
    given_arguments: Mapping[str, Any],
    given_inputs: Mapping[str, TensorSpec],
) -> Scaffold:
    """Write a model's folder, and load it as the service would.

    Weights that lie in the folder already, as those of a version, are taken and left where they are.

    Raises:
        ConfigurationError: a manifest is there already, something cannot be inferred, or the outcome does not load.

    """
    path = folder / "model.toml"
    present = _present(folder, path, checkpoint)
    with _Files() as files:
        target = _beside(folder, target, files)
        cls = classes.find(target, path)
        source = checkpoint or present
        held = state_dicts(weights.contents(source)) if source else []
        fitted = arguments.fit(cls, given_arguments, [one.tensors for one in held])
        module = classes.build(target, fitted.arguments, path)
        loaded = _load(module, source, held) if source else None
        draft = infer(module, given_inputs)
        document = {"class": target} | ({"arguments": fitted.arguments} if fitted.arguments else {}) | draft.document
        if present is None:
            _save(module, files.new(folder / "1" / weights.FILES[0]))
        elif loaded is not None:
            document |= _weights(present, loaded)
        notes = [_origin(source, loaded), *_converted(module, loaded), *fitted.notes()]
        files.new(path).write_text(_text(document, notes, draft))
        path.chmod(_MODE)
        report = version_report(folder, None, settings.read())
        if report.errors:
            raise ConfigurationError(report.errors[0])
        return Scaffold(files.written, document, [*notes, *draft.notes], report)


def _present(folder: Path, path: Path, checkpoint: Path | None) -> Path | None:
    """Never write over anything; return the weights of the folder's highest version, where it has any."""
    name = folder.resolve().name
    if not re.fullmatch(MODEL_NAME, name):
        raise ConfigurationError(f"{folder}: a model's name must match {MODEL_NAME}")
    if path.exists():
        raise ConfigurationError(f"{path}: is there already, and is not written over")
    if checkpoint is not None and not checkpoint.is_file():
        raise ConfigurationError(f"{checkpoint}: there is no such file")
    held = [file for file in folder.glob("[0-9]*/*") if file.name in weights.FILES and file.parent.name.isdecimal()]
    present = max(held, key=lambda file: int(file.parent.name), default=None)
    if present is not None and checkpoint is not None:
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
        (called(held[name]), called(tensor))
        for name, tensor in module.state_dict().items()
        if name in held and held[name].dtype is not tensor.dtype
    }
    return [f"weights: converted from {given} to the class's {own}" for given, own in sorted(pairs)]


def _text(document: Mapping[str, Any], notes: list[str], draft: Draft) -> str:
    """The manifest, each part under the comments that say how it was found."""
    head = {key: document[key] for key in ("class", "arguments") if key in document}
    first = "Written by `carryover new`: what stands here was found by running the class."
    parts = [f"{_comment([first, *notes])}\n{_pairs(head)}"]
    if draft.labels is not None:
        names = f'labels = ["…", "…"]: the names of the {draft.labels} values would make it a classifier'
        parts.append(_comment([names]))
    for word, why in (("inputs", draft.why_inputs), ("outputs", {})):
        for spec in document[word]:
            comment = [f"{_comment([why[spec['name']]])}\n"] if spec["name"] in why else []
            parts.append("".join([*comment, f"[[{word}]]\n{_pairs(spec)}"]))
    parts.append(_comment([*draft.why_state, draft.why_batching]))
    parts += [f"[state.{_key(name)}]\n{_pairs(given)}".strip() for name, given in document.get("state", {}).items()]
    if "weights" in document:
        parts.append(f"[weights]\n{_pairs(document['weights'])}")
    return "\n\n".join(parts) + "\n"


def _pairs(given: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(key)} = {_toml(value)}" for key, value in given.items())


def _toml(value: Any) -> str:
    """A value as TOML: numbers, strings, booleans, and lists and dicts of these."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(held)}' for key, held in value.items())} }}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _comment(lines: Iterable[str]) -> str:
    return "\n".join(f"# {' '.join(line.split())}".rstrip() for line in lines)


class _Files:
    """Files that are written together: where an error ends that, none of them is left, nor any folder made for them."""

    def __init__(self) -> None:
        self.written: list[Path] = []
        self._folders: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def new(self, path: Path) -> Path:
        """Note a file that is about to be written, and make its folder."""
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            self._folders.append(folder)
        self.written.append(path)
        return path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        for file in self.written:
            file.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            shutil.rmtree(folder, ignore_errors=True)
