"""The commands `models`, `inspect` and `new`: they load what they are asked about, and no more."""

from flask import Flask

from carryover.cli.inspect import inspect
from carryover.cli.models import models
from carryover.cli.new import new


def register(app: Flask) -> None:
    """Put every command on the application."""
    for command in (models, inspect, new):
        app.cli.add_command(command)
