"""Carryover: a REST inference service for stateful PyTorch models.

Importing this package imports neither torch nor Flask.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

__version__ = "0.1.0"


def create_app() -> "Flask":
    """Return the application without an engine, for `flask --app carryover`: its commands and its routes.

    Raises:
        click.UsageError: it is to be run, which Flask's server cannot do.

    """
    import click  # noqa: PLC0415 - a client needs none of these

    context = click.get_current_context(silent=True)
    if context is not None and context.info_name == "run":
        raise click.UsageError("Flask's own server cannot serve this application; run `carryover serve` instead")
    from carryover import cli  # noqa: PLC0415
    from carryover.api.application import create_app as create  # noqa: PLC0415

    app = create()
    cli.register(app)
    return app
