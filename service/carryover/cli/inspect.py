"""`inspect`: a model's folder, a version's folder or a bare checkpoint, tensor by tensor."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from carryover import settings
from carryover.cli.report import report_text, version_report
from carryover.cli.summary import HEADINGS, cells, hint, summary
from carryover.cli.terminal import json_option, show_json, table, working
from carryover.errors import ConfigurationError
from carryover.runtime import programs, weights, weights_advice

_UNKNOWN = (
    "A bare checkpoint does not say which of its tensors are buffers, nor which of those are state: its class does. "
    "`carryover new` writes a manifest from class and checkpoint. Names that the class has otherwise go into [weights] "
    "rename, those that it has not into ignore; --model, the folder of a model of the class, says which these are."
)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", "folder", type=click.Path(path_type=Path), help="A model whose class a checkpoint is for.")
@json_option
def inspect(path: Path, folder: Path | None, *, as_json: bool) -> None:
    """Show a model or a checkpoint, tensor by tensor.

    PATH is a model's folder, a version's folder or a checkpoint: of this one, if it lies in a model's folder or with
    --model, it says what [weights] must say. Each parameter and buffer is summarized, with what was found to be state
    and why, and every problem. Exits with 1 where the service would not load the model.
    """
    if path.name in ("", ".."):
        path = path.resolve()
    errors: list[str] = []
    with working():
        if path.is_file():
            found, text = _checkpoint(path, folder), _checkpoint_text
        else:
            (found, report), text = version_report(*_version(path), settings.read()), report_text
            errors = report.errors
    if as_json:
        show_json(found)
    else:
        click.echo(text(found))
    sys.exit(bool(errors))


def _version(path: Path) -> tuple[Path, str | None]:
    """The model's folder that a path leads to, and the version where it names one."""
    if (path / "model.toml").is_file():
        return path, None
    if path.is_dir() and (path.absolute().parent / "model.toml").is_file():
        return path.parent if path.parent.name else path.absolute().parent, path.name
    if not path.exists():
        raise ConfigurationError(f"{path}: there is no such file or folder")
    raise ConfigurationError(
        f"{path}: is neither a checkpoint nor a model's folder: it has no model.toml; `carryover new` writes one"
    )


def _checkpoint(path: Path, folder: Path | None) -> dict[str, Any]:
    """What a checkpoint, or a program, holds, and how it fits the class of the model in a folder, or of its own."""
    program = programs.load(path, trusted=settings.read().trust_pt2) if path.suffix == ".pt2" else None
    groups = list(weights.groups(dict(program.module.state_dict()) if program else weights.contents(path)))
    fit = None if program else weights_advice.fit(path, folder)
    advice = [sentence for group in groups for sentence in group.advice()] + list(weights_advice.parts(groups))
    return {
        "path": str(path),
        "tensors": [
            {"path": group.path, "name": name, "figures": summary(tensor), "hint": hint(name) or None}
            for group in groups
            for name, tensor in group.tensors.items()
        ],
        "others": [
            {"path": group.path, "name": name, "value": shown}
            for group in groups
            for name, shown in group.others.items()
        ],
        "advice": advice if fit is None else [fit],
        "unknown": _UNKNOWN if fit is None else None,
    }


def _checkpoint_text(found: Mapping[str, Any]) -> str:
    tensors = found["tensors"]
    rows = [
        (" > ".join((*row["path"], row["name"])) or "the tensor", *cells(row["figures"]), row["hint"] or "")
        for row in tensors
    ]
    parts = [f"{found['path']}: {len(rows)} tensors, {sum(row['figures'].nbytes for row in tensors):,} bytes"]
    if rows:
        parts.append(table([("TENSOR", *HEADINGS, "HINT"), *rows], right=(3,)))
    if others := [f"  {other['name']}: {other['value']}" for other in found["others"] if not other["path"]]:
        parts.append("\n".join(["Beside them, among others:", *others]))
    return "\n\n".join([*parts, *found["advice"], *filter(None, [found["unknown"]])])
