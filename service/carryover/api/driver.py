"""What happens to every request: its body is read, its handler called, and what either raises becomes a problem.

The request is counted, and gets an id. Where there are API keys, it must have one with the route's right, whose rate is
not used up.
"""

import logging
import time
from collections.abc import Callable

from carryover.api import auth, problems, rates, request_ids, timing
from carryover.api.inbound import Inbound
from carryover.api.response import Response
from carryover.api.route import Route, Scope
from carryover.engine import Engine
from carryover.errors import CarryoverError
from carryover.telemetry.request_log import Entry

_ADMIN, _HEALTH = Scope.ADMIN, Scope.HEALTH
_ERROR = 400

log = logging.getLogger(__name__)


def respond(route: Route, engine: Engine, inbound: Inbound, read_body: Callable[[], bytes] | None = None) -> Response:
    """Return the response to a request; `read_body` reads its body, where it is not there and the route takes one."""
    started = time.perf_counter_ns()
    inbound.request_id = request_ids.of(inbound.headers.get("x-request-id"))
    try:
        if engine.keys is not None or route.scope is _ADMIN or auth.PARAMETER in inbound.query:
            engine = auth.admitted(route, engine, inbound)
            if engine.charge is not None and not route.changes:
                engine.charge.take()  # the others do when they load their sessions
        if ("traceparent" in inbound.headers or "prefer" in inbound.headers) and (times := timing.asked(inbound)):
            engine = engine.timed(times)
        if read_body is not None and (route.body is not None or route.streams):
            inbound.body = read_body()
        response = route.handler(engine, inbound)
    except CarryoverError as error:
        response = problems.response(error, inbound.path, inbound.request_id)
    except Exception:
        log.exception("unexpected error in %s, request %s", route.name, inbound.request_id)
        response = problems.unexpected(inbound.path, inbound.request_id)
    if engine.charge is not None:
        response = rates.charged(route, engine.charge, inbound, response)
    if engine.timing is not None:
        response = timing.noted(route, engine, inbound, response, started)
    spent = time.perf_counter_ns() - started
    engine.metrics.requests.observe((route, response.status), spent)
    status = response.status
    # Proxies ask for the health several times a second.
    if (
        status >= engine.request_log.least_status
        and isinstance(response.body, bytes)
        and (status >= _ERROR or route.scope is not _HEALTH)
    ):
        engine.request_log.add(entry(route, inbound, response, spent, len(response.body)))
    return response


def entry(route: Route, inbound: Inbound, response: Response, spent: int, size: int) -> Entry:
    """Return what the log says of a request that took `spent` nanoseconds; `size` is that of the response's body."""
    return Entry(
        inbound.request_id, inbound.method, route.template, response.status, spent, size, response.step,
        inbound.parameters, key=inbound.key, session=inbound.session, batch=inbound.batch,
        trace=inbound.trace,
    )  # fmt: skip
