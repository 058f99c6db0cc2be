"""Routes of a model, or of one of its versions."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint
from werkzeug.routing import BaseConverter


class NameConverter(BaseConverter):
    """A name in an address: it ends before the colon that says what is to be done with it."""

    regex = "(?:(?!:(?:predict|stream|fork|reset)$)[^/])+"


Route = TypeVar("Route", bound=Callable[..., Any])


def model_route(blueprint: Blueprint, method: str, rest: str, root: str = "/v1") -> Callable[[Route], Route]:
    """Register a function for `/v1/models/<model>` and `/v1/models/<model>/versions/<version>`, followed by `rest`.

    `root` is what stands in the place of `/v1`. The function gets `model`, `version` (None in the first form), and what
    `rest` holds.
    """

    def register(function: Route) -> Route:
        name = function.__name__
        rule = f"{root}/models/<name:model>{rest}"
        blueprint.add_url_rule(rule, name, function, methods=[method], defaults={"version": None})
        blueprint.add_url_rule(
            f"{root}/models/<name:model>/versions/<name:version>{rest}", name, function, methods=[method]
        )
        return function

    return register
