"""`new`: write a first manifest from a class and its checkpoint."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from carryover.cli.scaffold import scaffold
from carryover.cli.terminal import json_option, show_json, working
from carryover.errors import ConfigurationError
from carryover.runtime.manifest import TensorSpec

_TAKES_SEVERAL = ("--arguments", "--input")


class _Several(click.Command):
    """Lets `--arguments a=1 b=2` stand for `--arguments a=1 --arguments b=2`, and likewise with `--input`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        option, several = "", list[str]()
        for given in args:
            if given.startswith("-"):
                option = given
            elif option in _TAKES_SEVERAL and several[-1] != option:
                option = option if re.match(r"\w+[=:]", given) else ""
                several += [option] if option else []
            several.append(given)
        return super().parse_args(ctx, several)


@click.command(cls=_Several)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--from", "target", required=True, help="The class: package.module:Class, or file.py:Class.")
@click.option("--weights", "checkpoint", type=click.Path(path_type=Path), help="Its checkpoint, nested or not.")
@click.option("--arguments", "given", multiple=True, metavar="NAME=VALUE ...", help="Of the constructor.")
@click.option("--input", "inputs", multiple=True, metavar="NAME:DATATYPE:SHAPE ...", help="Such as rows:FP32:-1,1,8.")
@click.option("--method", default="forward", help="What is called, where it is not forward.")
@json_option
def new(  # noqa: PLR0913 - one for each option
    path: Path,
    target: str,
    checkpoint: Path | None,
    given: Sequence[str],
    inputs: Sequence[str],
    *,
    method: str,
    as_json: bool,
) -> None:
    """Write a first manifest for a class.

    Writes PATH/model.toml and PATH/1/weights.safetensors; a file.py that lies elsewhere is copied beside them. Inputs,
    outputs, state and batching are found by running the class; comments in the manifest say what was inferred, and
    why. Nothing is written over, and nothing is left behind where it cannot be done.
    """
    if path.name in ("", ".."):
        path = path.resolve()
    with working():
        specs = {spec.name: spec for spec in map(_spec, inputs)}
        done = scaffold(path, target, checkpoint, dict(map(_argument, given)), specs, method=method)
    if as_json:
        show_json(done)
        return
    end = "It loads and runs, with warnings:" if done["problems"] else "It loads and runs."
    lines = [f"wrote {file}" for file in done["written"]] + [f"  {note}" for note in done["inferred"]]
    click.echo("\n".join([*lines, end, *(f"  {sentence}" for sentence in done["problems"])]))


def _argument(text: str) -> tuple[str, Any]:
    """Read `name=value`, where the value is TOML (`64`, `true`, `[1, 2]`), None or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigurationError(f"--arguments {text}: expected name=value, such as hidden_size=64")
    if value == "None":
        return name, {"none": True}
    try:
        parsed = tomllib.loads(f"value = {value.lower() if value in ('True', 'False') else value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
    return name, parsed if isinstance(parsed, (bool, int, float, str, list, dict)) else value


def _spec(text: str) -> TensorSpec:
    """Read `name:DATATYPE:shape`; the shape's sizes may stand in brackets, and there may be none."""
    parts = text.split(":")
    sizes = parts[-1].strip("[] ")
    try:
        name, datatype, _ = parts
        shape = [int(size) for size in sizes.split(",")] if sizes else []
        return TensorSpec.model_validate({"name": name, "datatype": datatype, "shape": shape})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"--input {text}: {reason}") from None
    except ValueError:
        raise ConfigurationError(f"--input {text}: expected name:DATATYPE:sizes, such as rows:FP32:-1,1,8") from None
