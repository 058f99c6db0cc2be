"""Writing a model's folder: its class file, its weights, and the manifest that says what was found."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from carryover import settings
from carryover.cli import arguments
from carryover.cli.infer_manifest import Draft, infer
from carryover.cli.report import version_report
from carryover.errors import ConfigurationError
from carryover.runtime import classes, weights
from carryover.runtime.manifest import MODEL_NAME, TensorSpec
from carryover.runtime.siblings import Siblings
from carryover.runtime.weights import StateDict


def scaffold(
    folder: Path,
    target: str,
    checkpoint: Path | None,
    given_arguments: Mapping[str, Any],
    given_inputs: Mapping[str, TensorSpec],
) -> dict[str, Any]:
    """Write a model's folder, load it as the service would, and return what `new --json` prints.

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
        fitted, notes = arguments.fit(cls, given_arguments, held, path)
        module = classes.build(target, fitted, path)
        loaded = weights.load_fitting(module, source, held) if source else None
        draft = infer(module, given_inputs)
        if present is None:
            _save(module, _create(folder / "1" / _file_for(module), written, undo))
        document = {"class": target, **({"arguments": fitted} if fitted else {}), **draft.document}
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
        "problems": [problem.sentence for problem in report.problems],
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
    root, files = _imported(file)
    copies = {found: folder / found.relative_to(root) for found in files}
    for found, copy in tuple(copies.items()):
        if copy.exists() and found.read_bytes() != copy.read_bytes():
            raise ConfigurationError(f"{copy}: is there already, and is another file than {found}")
        if copy.exists():
            del copies[found]
    return f"{file.resolve().relative_to(root).as_posix()}:{name}", copies


def _imported(file: Path) -> tuple[Path, list[Path]]:
    """Return the folder that a file's imports start from, its own or the current one, and all files there it needs.

    Where it cannot be imported from either, that is the file alone; why is said when its class is looked for.
    """
    for root in (file.resolve().parent, Path.cwd().resolve()):
        if not file.resolve().is_relative_to(root):
            continue
        modules = Siblings(root)
        try:
            modules.module(".".join(file.resolve().relative_to(root).with_suffix("").parts))
            return root, modules.files()
        except (Exception, SystemExit):  # noqa: BLE001, S112 - the file's own code may raise anything
            continue
        finally:
            modules.withdraw()
    return file.resolve().parent, [file.resolve()]


def _file_for(module: nn.Module) -> str:
    """Safetensors, unless the state dict holds more than tensors."""
    return weights.FILES[0 if all(isinstance(held, Tensor) for held in module.state_dict().values()) else 1]


def _save(module: nn.Module, path: Path) -> None:
    if path.suffix == ".pt":
        torch.save(module.state_dict(), path)
        return
    # Cloned: safetensors rejects tensors that share their memory, as tied weights do.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    try:
        save_file(tensors, path)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be written: {error}") from None


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
    head = {key: document[key] for key in ("class", "arguments", "call") if key in document}
    first = "Written by `carryover new`: what stands here was found by running the class."
    parts = [f"{_comment([first, *notes])}\n{_pairs(head)}"]
    if draft.labels is not None:
        parts.append(f'# labels = ["…", "…"]: the names of the {draft.labels} values would make it a classifier')
    parts += [f"{_comment([draft.why[spec['name']]])}\n[[inputs]]\n{_pairs(spec)}" for spec in document["inputs"]]
    parts += [f"[[outputs]]\n{_pairs(spec)}" for spec in document["outputs"]]
    parts.append(_comment(draft.notes))
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
