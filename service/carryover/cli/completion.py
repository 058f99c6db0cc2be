"""`carryover completion`: a shell's completion of commands and flags."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and flags in SHELL.

    For bash, `carryover completion bash >>~/.bashrc`; for zsh, the same into ~/.zshrc; for fish, into
    ~/.config/fish/completions/carryover.fish.
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has one for each of the choices
    click.echo(found(context.find_root().command, {}, "carryover", "_CARRYOVER_COMPLETE").source())
