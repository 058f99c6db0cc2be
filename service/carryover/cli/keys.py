"""`keys`: make an API key."""

import re
from collections.abc import Sequence

import click

from carryover import keys as api_keys


@click.group()
def keys() -> None:
    """Make API keys."""


@keys.command()
@click.argument("name")
@click.option(
    "--right", "rights", multiple=True, type=click.Choice(api_keys.RIGHTS), default=("predict", "sessions"),
    show_default=True, help="What it may do; may be given several times.",
)  # fmt: skip
@click.option("--model", "models", multiple=True, help="A model that it is for; without it, all.")
@click.option("--days", type=click.IntRange(1, 36500), help="Days until it expires; without it, it does not.")
@click.option("--rate", help="How often it may call, such as 600/minute; without it, as often as it likes.")
def new(name: str, rights: Sequence[str], models: Sequence[str], days: int | None, rate: str | None) -> None:
    """Make a key, and show it once.

    The lines on standard output belong in the file that API_KEYS names; the key itself, which is not stored, goes to
    standard error. NAME is the caller's: its sessions are stored under it.
    """
    for what, value in (("NAME", name), *(("--model", model) for model in models)):
        if re.fullmatch(api_keys.NAME, value) is None:
            raise click.UsageError(
                f"{what} {value!r} is invalid; expected 1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
            )
    if rate is not None and re.fullmatch(api_keys.RATE, rate) is None:
        raise click.UsageError(
            f"--rate {rate!r} is invalid; expected a number up to 999999, and /second, /minute, /hour or /day"
        )
    secret, lines = api_keys.new(name, list(dict.fromkeys(rights)), list(models), days, rate)
    click.echo(f"The key, shown only now: {secret}", err=True)
    click.echo(lines)
