"""One row of the interface."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from carryover.api.inbound import Inbound
from carryover.api.response import JSON, Response
from carryover.engine import Engine
from carryover.errors import CarryoverError

Handler = Callable[[Engine, Inbound], Response]

_OPTIONAL = re.compile(r"\[([^]]*)\]")
_PARAMETER = re.compile(r"\{(\w+)\}")


class Scope(StrEnum):
    """The right that a caller needs where there are API keys; any key will do for HEALTH and METRICS, none for OPEN."""

    OPEN = "open"
    HEALTH = "health"
    METRICS = "metrics"
    PREDICT = "predict"
    SESSIONS = "sessions"
    ADMIN = "admin"


class Stream(StrEnum):
    """What a connection carries that stays open: lines of JSON both ways, the same as messages, or events."""

    LINES = "lines"
    MESSAGES = "messages"
    EVENTS = "events"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One row: a method and a path, and the handler that answers.

    In `path`, `{name}` is a parameter, and what stands in brackets may be left out. `body` is what the request's body
    is: a pydantic model, `bytes`, or None where it takes none. `responses` has the schema of each successful status, or
    None where there is no body; `errors` are those that the handler raises beside the ones that any may raise. A route
    that `changes` a session takes the preconditions; one that `streams` goes on until either side ends it; one that is
    `hot` is worth a short way. `model` is the one that it is about, where its path does not name it. One
    that `creates` a missing session does so where it is asked to. `query` are its other parameters in the query.

    `accepts` are the media types of the request's body, which may be left out where it is `body_optional`; `returns`
    are those of a successful response.
    """

    method: str
    path: str
    handler: Handler
    responses: Mapping[int, Any]
    body: Any = None
    errors: tuple[type[CarryoverError], ...] = ()
    scope: Scope = Scope.PREDICT
    changes: bool = False
    streams: Stream | None = None
    hot: bool = False
    model: str | None = None
    creates: bool = False
    query: tuple[str, ...] = ()
    body_optional: bool = False
    accepts: tuple[str, ...] = (JSON,)
    returns: tuple[str, ...] = (JSON,)
    template: str = field(init=False)
    """The path without what may be left out: what the route is called in metrics and logs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", _OPTIONAL.sub("", self.path))

    @property
    def name(self) -> str:
        """What it is called: its handler's place in this package."""
        return f"{self.handler.__module__.removeprefix('carryover.api.')}.{self.handler.__name__}"

    def templates(self) -> list[str]:
        """Return the paths, with and without what may be left out."""
        return list(dict.fromkeys((self.template, _OPTIONAL.sub(r"\1", self.path))))

    def rules(self) -> list[str]:
        """Return the paths in Flask's form."""
        return [_PARAMETER.sub(r"<name:\1>", path) for path in self.templates()]
