"""`keys`: make an API key."""

from collections.abc import Sequence

import click

from carryover import keys as api_keys
from carryover.cli.terminal import working


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
    with working():
        secret, lines = api_keys.new(name, list(dict.fromkeys(rights)), list(models), days, rate)
    click.echo(f"The key, shown only now: {secret}", err=True)
    click.echo(lines)
