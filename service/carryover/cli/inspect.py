"""`inspect`: a model's folder, a version's folder or a bare checkpoint, tensor by tensor."""

import sys
from pathlib import Path
from typing import Any

import click

from carryover import settings
from carryover.cli.checkpoint import Group, groups, hint
from carryover.cli.examination import Examination, Row, examine
from carryover.cli.figures import HEADINGS, cells, figures
from carryover.cli.terminal import json_option, show_json, table, working
from carryover.errors import ConfigurationError
from carryover.runtime import programs, weights


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def inspect(path: Path, *, as_json: bool) -> None:
    """Show a model or a checkpoint, tensor by tensor.

    PATH is a model's folder, a version's folder or a bare checkpoint. Each parameter and buffer is shown with its
    figures, what was found to be state and why, and everything that would go wrong. Exits with 1 where the service
    would refuse to load the model.
    """
    if path.name in ("", ".."):
        path = path.resolve()
    shown: object
    refused = False
    with working():
        if path.is_file():
            found = list(groups(_contents(path)))
            shown = _checkpoint_json(path, found) if as_json else _checkpoint_text(path, found)
        else:
            examined = examine(*_version(path))
            refused = examined.refused
            shown = examined if as_json else _text(examined)
    if as_json:
        show_json(shown)
    else:
        click.echo(shown)
    if refused:
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
        f"{path}: is neither a checkpoint nor a model's folder: there is no model.toml in it; `new` writes one"
    )


def _text(examined: Examination) -> str:
    head = table(
        [
            ("model", examined.model),
            ("version", f"{examined.version or 'none'} of {', '.join(examined.versions) or 'none'}"),
            ("class", examined.target or "not known"),
            ("weights", examined.weights or "none"),
            ("fingerprint", examined.fingerprint or "none: it does not load"),
            *(("input", _spec(spec)) for spec in examined.inputs),
            *(("output", _spec(spec)) for spec in examined.outputs),
            ("batching", examined.batching),
        ]
    )
    parts = [head]
    if examined.tensors:
        rows = [("TENSOR", "KIND", *HEADINGS, "WHY"), *map(_row, examined.tensors)]
        parts.append(table(rows, right=(4,)))
    parts.append(_problems(examined))
    return "\n\n".join(parts)


def _row(row: Row) -> tuple[str, ...]:
    return row.name, row.kind, *cells(row.figures), row.why


def _spec(spec: dict[str, Any]) -> str:
    batch = "" if spec["batch_dim"] is None else f"  batch_dim {spec['batch_dim']}"
    return f"{spec['name']} {spec['datatype']} {list(spec['shape'])}{batch}"


def _problems(examined: Examination) -> str:
    if not examined.problems:
        return "Nothing would go wrong."
    lines = [f"  {'refused' if problem.refused else 'beware '}  {problem.sentence}" for problem in examined.problems]
    return "\n".join(["What would go wrong:", *lines])


_UNKNOWN = (
    "A bare checkpoint does not say which of its tensors are buffers, nor which of those are state: its class does. "
    "`new` writes a manifest from class and checkpoint."
)


def _checkpoint_text(path: Path, found: list[Group]) -> str:
    rows = [
        (" > ".join((*group.path, name)) or "the tensor", *cells(figures(tensor)), hint(name))
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
            {"path": group.path, "name": name, "figures": figures(tensor), "hint": hint(name) or None}
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
            f"All names {where}begin with {prefix!r}; where those of the class do not, a manifest says [weights] "
            f'prefix = "{prefix}".'
            for prefix in group.prefixes()
        ]
    return sentences
