"""The console command `carryover`: serve a model repository, or look at what is in one."""

import sys
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from carryover import __version__

_LAZY = ("completion", "inspect", "keys", "models", "new", "serve")


class _Group(click.Group):
    """Imports a command, which may load torch, only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_LAZY})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LAZY:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"carryover.cli.{cmd_name}"), cmd_name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name without importing the commands."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name) for name in self.list_commands(ctx) if name.startswith(incomplete)]


@click.group(cls=_Group)
@click.version_option(__version__)
def main() -> None:
    """Serve stateful PyTorch models, and inspect them."""
    # A manifest may name a class of a package in the current folder, as gunicorn and Flask let it.
    sys.path.insert(0, str(Path.cwd()))


if __name__ == "__main__":
    main()
