"""Routes of a model, or of one of its versions."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint

Route = TypeVar("Route", bound=Callable[..., Any])


def model_route(blueprint: Blueprint, method: str, rest: str, root: str = "/v1") -> Callable[[Route], Route]:
    """Register a function for `/v1/models/<model>` and `/v1/models/<model>/versions/<version>`, followed by `rest`.

    `root` is what stands in the place of `/v1`. The function gets `model`, `version` (None in the first form), and what
    `rest` holds.
    """

    def register(function: Route) -> Route:
        name = function.__name__
        rule = f"{root}/models/<model>{rest}"
        blueprint.add_url_rule(rule, name, function, methods=[method], defaults={"version": None})
        blueprint.add_url_rule(f"{root}/models/<model>/versions/<version>{rest}", name, function, methods=[method])
        return function

    return register
