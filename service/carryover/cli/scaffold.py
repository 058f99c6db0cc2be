"""Writing a model's folder: its class file, its weights, and the manifest that says what was found."""

import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from carryover import settings
from carryover.cli.infer_manifest import Draft, infer
from carryover.cli.report import version_report
from carryover.errors import ConfigurationError
from carryover.runtime import argument_guesses, classes, siblings, toml, weights
from carryover.runtime.manifest import MODEL_NAME, TensorSpec
from carryover.runtime.weights import StateDict


def scaffold(  # noqa: PLR0913 - what is said on the command line
    folder: Path,
    target: str,
    checkpoint: Path | None,
    given_arguments: Mapping[str, Any],
    given_inputs: Mapping[str, TensorSpec],
    *,
    method: str = "forward",
) -> dict[str, Any]:
    """Write a model's folder, load it as the service would, and return what `new --json` prints.

    `method` is what is called.

    Weights that lie in the folder already, as those of a version, are taken and left where they are.

    Raises:
        ConfigurationError: a manifest is there already, something cannot be inferred, or the outcome does not load;
            then nothing is left behind.

    """
    path, written = folder / "model.toml", list[Path]()
    present = _present(folder, path, checkpoint)
    with ExitStack() as undo:
        target, copied = _beside(folder, target)
        for original, copy in copied.items():
            shutil.copyfile(original, _create(copy, written, undo))
        cls, source = classes.find(target, path), checkpoint or present
        held = weights.state_dicts(source) if source else []
        fitted, notes = argument_guesses.fit(cls, given_arguments, held, path)
        module = classes.build(target, fitted, path)
        loaded = weights.load_fitting(module, source, held) if source else None
        draft = infer(module, given_inputs, method)
        if present is None:
            weights.save(module, _create(folder / "1" / weights.file_for(module), written, undo))
        document = {"class": target, **({"arguments": fitted} if fitted else {})}
        document |= {"method": method} if method != "forward" else {}
        document |= draft.document
        document |= _weights(loaded) if present and loaded else {}
        notes = [_origin(module, source, loaded), *notes]
        _create(path, written, undo).write_text(_text(document, notes, draft))
        found, report = version_report(folder, None, settings.read())
        report.raise_first()
        for file in written:
            file.chmod(0o644)
        undo.pop_all()
    return {
        **{key: found[key] for key in ("model", "version", "fingerprint")},
        "written": list(map(str, written)),
        "manifest": document,
        "inferred": [*notes, *(f"{name}: {reason}" for name, reason in draft.why.items()), *draft.notes],
        "problems": [*draft.doubts, *(problem.sentence for problem in report.problems)],
    }


def _create(file: Path, written: list[Path], undo: ExitStack) -> Path:
    """Note a file that is about to be written, and make its folder; `undo` removes both."""
    for parent in reversed([parent for parent in file.parents if not parent.exists()]):
        parent.mkdir()
        undo.callback(shutil.rmtree, parent, ignore_errors=True)
    undo.callback(file.unlink, missing_ok=True)
    written.append(file)
    return file


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


def _beside(folder: Path, target: str) -> tuple[str, dict[Path, Path]]:
    """Return the class as a manifest names it, and the files that are to be copied beside the manifest: from, to."""
    source, colon, name = target.rpartition(":")
    if not colon:
        raise ConfigurationError(f"--from {target}: expected package.module:Class, or file.py:Class")
    if not source.endswith(".py"):
        return target, {}
    file = Path(source)
    if not re.fullmatch(r"[A-Za-z_][\w-]*\.py", file.name):
        raise ConfigurationError(f"--from {target}: the name {file.name} cannot be imported; rename the file")
    if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
        return f"{file.resolve().relative_to(folder.resolve()).as_posix()}:{name}", {}
    if not file.is_file():
        if not (folder / file).is_file():
            raise ConfigurationError(f"--from {target}: there is no file {file}, and none in {folder}")
        return f"{file.as_posix()}:{name}", {}
    root, files = siblings.imported_by(file)
    copies = {found: folder / found.relative_to(root) for found in files}
    for found, copy in tuple(copies.items()):
        if copy.exists() and found.read_bytes() != copy.read_bytes():
            raise ConfigurationError(f"{copy}: is there already, and is another file than {found}")
        if copy.exists():
            del copies[found]
    return f"{file.resolve().relative_to(root).as_posix()}:{name}", copies


def _weights(loaded: StateDict) -> dict[str, Any]:
    """What the manifest must say of weights that are left as they are."""
    said = {"key": ".".join(loaded.path)} if loaded.path else {}
    said |= {"prefix": loaded.prefix} if loaded.prefix else {}
    return {"weights": said} if said else {}


def _origin(module: nn.Module, source: Path | None, loaded: StateDict | None) -> str:
    if loaded is None:
        return "weights: the module's own initial values; no checkpoint was given"
    own = module.state_dict()
    converted = any(held.dtype is not own[name].dtype for name, held in loaded.tensors.items())
    words = [f"weights: from {source}", loaded.place, "converted to the class's datatypes" if converted else ""]
    return " ".join(filter(None, words))


def _text(document: Mapping[str, Any], notes: list[str], draft: Draft) -> str:
    """The manifest, each part under the comments that say how it was found."""
    first = "Written by `carryover new`: what stands here was found by running the class."
    keys = ("class", "arguments", "method", "call", "weights")
    head = [toml.pair(key, document[key]) for key in keys if key in document]
    parts = [[_comment(first), *map(_comment, notes), *head]]
    if draft.labels is not None:
        parts.append([f'# labels = ["…", "…"]: the names of the {draft.labels} values would make it a classifier'])
    parts.append([_comment(f"{name}: {reason}") for name, reason in draft.why.items()])
    parts[-1] += [toml.pair(key, document[key]) for key in ("inputs", "outputs")]
    parts.append(list(map(_comment, draft.notes)))
    if state := document.get("state"):
        parts[-1] += ["[state]", *map(toml.pair, state, state.values())]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _comment(line: str) -> str:
    return f"# {' '.join(line.split())}"
