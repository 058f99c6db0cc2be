"""`inspect`: a model's folder, a version's folder or a bare checkpoint, tensor by tensor."""

import sys
from pathlib import Path
from typing import Any

import click

from carryover import settings
from carryover.cli.checkpoint import Group, groups, hint
from carryover.cli.report import version_report
from carryover.cli.summary import HEADINGS, cells, summary
from carryover.cli.terminal import json_option, show_json, table, working
from carryover.errors import ConfigurationError
from carryover.runtime import programs, weights

_UNKNOWN = (
    "A bare checkpoint does not say which of its tensors are buffers, nor which of those are state: its class does. "
    "`carryover new` writes a manifest from class and checkpoint."
)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def inspect(path: Path, *, as_json: bool) -> None:
    """Show a model or a checkpoint, tensor by tensor.

    PATH is a model's folder, a version's folder or a bare checkpoint. Each parameter and buffer is summarized, with
    what was found to be state and why, and every problem. Exits with 1 where the service would not load the model.
    """
    if path.name in ("", ".."):
        path = path.resolve()
    rejected = False
    with working():
        if path.is_file():
            found = list(groups(_contents(path)))
            shown: object = _checkpoint_json(path, found) if as_json else _checkpoint_text(path, found)
        else:
            report = version_report(*_version(path), settings.read())
            rejected = bool(report.errors)
            shown = report if as_json else report.text()
    if as_json:
        show_json(shown)
    else:
        click.echo(shown)
    if rejected:
        sys.exit(1)


def _contents(path: Path) -> Any:
    """What a checkpoint, or a program, holds."""
    if path.suffix == ".pt2":
        return dict(programs.load(path, trusted=settings.read().trust_pt2).module.state_dict())
    return weights.contents(path)


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


def _checkpoint_text(path: Path, found: list[Group]) -> str:
    rows = [
        (" > ".join((*group.path, name)) or "the tensor", *cells(summary(tensor)), hint(name))
        for group in found
        for name, tensor in group.tensors.items()
    ]
    others = [f"  {name}: {shown}" for group in found if not group.path for name, shown in group.others.items()]
    count = sum(tensor.numel() * tensor.element_size() for group in found for tensor in group.tensors.values())
    parts = [f"{path}: {len(rows)} tensors, {count:,} bytes"]
    if rows:
        parts.append(table([("TENSOR", *HEADINGS, "HINT"), *rows], right=(3,)))
    if others:
        parts.append("\n".join(["Beside them, among others:", *others]))
    parts += [*_advice(found), _UNKNOWN]
    return "\n\n".join(parts)


def _checkpoint_json(path: Path, found: list[Group]) -> dict[str, Any]:
    return {
        "path": str(path),
        "tensors": [
            {"path": group.path, "name": name, "figures": summary(tensor), "hint": hint(name) or None}
            for group in found
            for name, tensor in group.tensors.items()
        ],
        "others": [
            {"path": group.path, "name": name, "value": shown}
            for group in found
            for name, shown in group.others.items()
        ],
        "advice": _advice(found),
        "unknown": _UNKNOWN,
    }


def _advice(found: list[Group]) -> list[str]:
    """What a manifest must say so that the weights are found."""
    sentences = []
    for group in found:
        place = " > ".join(group.path)
        if len(group.path) == 1 and len(group.tensors) > 1 and not group.others:
            sentences.append(f'To serve the tensors under {place!r}, a manifest says [weights] key = "{place}".')
        where = f"under {place!r} " if place else ""
        sentences += [
            f"All names {where}start with {prefix!r}; where those of the class do not, a manifest says [weights] "
            f'prefix = "{prefix}".'
            for prefix in group.prefixes()
        ]
    return sentences
