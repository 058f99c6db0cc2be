"""`carryover serve`: the service, with settings from flags, the environment and a file."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from dotenv import dotenv_values

from carryover import platforms
from carryover.settings import Settings

_GUNICORN = (sys.executable, "-m", "gunicorn", "--config", "python:carryover.server.lifecycle")
F = TypeVar("F", bound=Callable[..., Any])


def _settings(command: F) -> F:
    """Give a command a flag for every setting that is not its argument."""
    for name, field in reversed(Settings.model_fields.items()):
        if name != "model_repository":
            flag = f"--{name.replace('_', '-')}"
            shown = "" if field.default is None else f" [{field.default}]"
            command = click.option(flag, name, metavar="VALUE", help=f"{field.description}{shown}")(command)
    return command


@click.command()
@click.argument("repositories", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--settings", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="A file of lines NAME=value, such as .env",
)  # fmt: skip
@_settings
def serve(repositories: tuple[Path, ...], file: Path | None, **flags: str | None) -> None:
    """Serve the models in REPOSITORIES, or those in MODEL_REPOSITORY.

    Each setting is a flag, an environment variable (--redis-url is REDIS_URL) or a line of the file of --settings; the
    first of these counts. docs/settings.md lists them.
    """
    if why := platforms.reason():
        raise click.ClickException(why)
    os.environ.update(_environment(repositories, file, flags))
    os.execv(_GUNICORN[0], _GUNICORN)  # noqa: S606 - this very interpreter


def _environment(repositories: tuple[Path, ...], file: Path | None, flags: dict[str, str | None]) -> dict[str, str]:
    """Return the variables to set, beside those that are."""
    found = {name: value for name, value in dotenv_values(file).items() if value is not None} if file else {}
    found = {name: value for name, value in found.items() if not os.environ.get(name)}
    found |= {name.upper(): value for name, value in flags.items() if value is not None}
    if repositories:
        found["MODEL_REPOSITORY"] = os.pathsep.join(map(str, repositories))
    return found
