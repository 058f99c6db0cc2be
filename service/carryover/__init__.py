"""Carryover: a REST inference service for stateful PyTorch models.

Importing this package imports neither torch nor Flask.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

__version__ = "0.1.0"


def create_app() -> "Flask":
    """Return the application without an engine, for `flask --app carryover`: its commands and its routes."""
    from carryover.api.application import create_app as create  # noqa: PLC0415 - a client needs neither

    return create()
