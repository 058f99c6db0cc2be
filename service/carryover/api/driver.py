"""What happens to every request: its body is read, its handler called, and what either raises becomes a problem."""

import logging
from collections.abc import Callable

from carryover.api import problems
from carryover.api.inbound import Inbound
from carryover.api.response import Response
from carryover.api.route import Route
from carryover.engine import Engine
from carryover.errors import CarryoverError

log = logging.getLogger(__name__)


def respond(route: Route, engine: Engine, inbound: Inbound, read_body: Callable[[], bytes] | None = None) -> Response:
    """Return the response to a request; `read_body` reads its body, where it is not there and the route takes one."""
    try:
        if read_body is not None and route.body is not None:
            inbound.body = read_body()
        return route.handler(engine, inbound)
    except CarryoverError as error:
        return problems.response(error, inbound.path)
    except Exception:
        log.exception("unexpected error in %s", route.name)
        return problems.unexpected(inbound.path)
