"""The commands: `flask --app service models`, `inspect` and `new`. They load what they are asked about, and no more."""

from flask import Flask

from service.cli.inspect import inspect
from service.cli.models import models
from service.cli.new import new


def register(app: Flask) -> None:
    """Put every command on the application."""
    for command in (models, inspect, new):
        app.cli.add_command(command)
