"""Routes of a model, or of one of its versions, and the short way to those of nearly all requests."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Blueprint, Flask, Request
from werkzeug.routing import BaseConverter, MapAdapter, Rule

_DIRECT = re.compile(
    r"/v1/(?:models/(?P<model>[A-Za-z0-9._-]+)(?:/sessions/(?P<session>[A-Za-z0-9._~-]+))?:predict"
    r"|accumulators/(?P<name>[A-Za-z0-9._~-]+))"
)


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


class Application(Flask):
    """Flask, with a short way to a prediction, a session's step and an accumulator's.

    To look an address up among all routes takes as long as to read and answer a small request. These three are told by
    one regular expression; whatever it does not know takes Flask's way.
    """

    _direct: dict[str | None, Rule]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what Flask takes."""
        super().__init__(*arguments, **options)
        self.url_map.merge_slashes = False  # an address with one too many is none, rather than a redirection
        self._direct = {}

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the request's route: Flask asks it once, by `match`."""
        if request is not None and request.environ["REQUEST_METHOD"] == "POST":
            found = _DIRECT.fullmatch(request.environ["PATH_INFO"])
            if found is not None:
                rule = self._direct.get(found.lastgroup)
                if rule is not None:
                    names = {name: part for name, part in found.groupdict().items() if part is not None}
                    return _Found((rule, {**(rule.defaults or {}), **names}))  # type: ignore[return-value]
                self._learn(found)
        return super().create_url_adapter(request)

    def _learn(self, found: re.Match[str]) -> None:
        adapter = self.url_map.bind("")
        if adapter.test(found.string, "POST"):
            self._direct[found.lastgroup] = adapter.match(found.string, "POST", return_rule=True)[0]


@dataclass(frozen=True, slots=True)
class _Found:
    """A route that is found already, in the form in which Flask looks for one."""

    result: tuple[Rule, dict[str, Any]]

    def match(self, *, return_rule: bool) -> tuple[Rule, dict[str, Any]]:  # noqa: ARG002
        return self.result
