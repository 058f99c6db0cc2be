"""What happens to every request: its body is read, its handler called, and what either raises becomes a problem.

The request is counted, and gets an id.
"""

import logging
import time
from collections.abc import Callable

from carryover.api import problems, request_id
from carryover.api.inbound import Inbound
from carryover.api.response import Response
from carryover.api.route import Route
from carryover.engine import Engine
from carryover.errors import CarryoverError

log = logging.getLogger(__name__)


def respond(route: Route, engine: Engine, inbound: Inbound, read_body: Callable[[], bytes] | None = None) -> Response:
    """Return the response to a request; `read_body` reads its body, where it is not there and the route takes one."""
    started = time.perf_counter_ns()
    inbound.request_id = request_id.of(inbound.headers.get("x-request-id"))
    try:
        if read_body is not None and route.body is not None:
            inbound.body = read_body()
        response = route.handler(engine, inbound)
    except CarryoverError as error:
        response = problems.response(error, inbound.path, inbound.request_id)
    except Exception:
        log.exception("unexpected error in %s", route.name)
        response = problems.unexpected(inbound.path, inbound.request_id)
    engine.metrics.requests.observe((route, response.status), time.perf_counter_ns() - started)
    return response
