"""Where the time of a request went: for its client, in `Server-Timing`, and for its trace, in spans.

Sources: https://www.w3.org/TR/server-timing/; RFC 7240; https://www.w3.org/TR/trace-context/.
"""

import os
import time
from collections.abc import Generator
from dataclasses import replace
from hashlib import sha256
from socket import gethostname

from carryover.api.inbound import Inbound
from carryover.api.response import Response
from carryover.api.route import Route
from carryover.engine import Engine
from carryover.telemetry import traces
from carryover.telemetry.traces import Span, Timing, Trace, Tracer

PREFERENCE = "server-timing"


def asked(inbound: Inbound) -> Timing | None:
    """Return what to note of a request; None where neither its client nor a trace asks for it."""
    trace = traces.parse(inbound.headers.get("traceparent"))
    if trace is None and not _prefers(inbound):
        return None
    inbound.trace = "" if trace is None else trace.id
    return Timing(trace)


def noted(route: Route, engine: Engine, inbound: Inbound, response: Response, started: int) -> Response:
    """Return the response to a request that was timed since `started`, with what its client asks for.

    The span of a stream ends with it.
    """
    timing = engine.timing
    if timing is None:
        return response
    fields: list[tuple[str, str]] = []
    trace, body = timing.trace, response.body
    timing.streaming = not isinstance(body, bytes)
    if trace is not None:
        if trace.sampled and engine.tracer is not None:
            span = timing.span = _span(engine.tracer, trace, route, inbound, started)
            trace = span.trace
            if isinstance(body, bytes):
                span.add(timing.stages)
                span.end(response.status)
            else:
                response = replace(response, body=_traced(body, span, response.status))
        fields.append(("traceparent", trace.header))
    if _prefers(inbound):
        fields += [("Server-Timing", _durations(timing, started)), ("Preference-Applied", PREFERENCE)]
    return response.with_headers(*fields)


def _span(tracer: Tracer, trace: Trace, route: Route, inbound: Inbound, started: int) -> Span:
    attributes = {
        "http.request.method": inbound.method,
        "http.route": route.template,
        "url.path": inbound.path,
        "carryover.request_id": inbound.request_id,
    }
    return tracer.start(trace, f"{inbound.method} {route.template}", attributes, started)


def _traced(body: Generator[bytes], span: Span, status: int) -> Generator[bytes]:
    """Return a body whose end is that of its span, also if nothing of it is ever taken, as of a response to HEAD."""
    traced = _until_its_end(body, span, status)
    next(traced)
    return traced


def _until_its_end(body: Generator[bytes], span: Span, status: int) -> Generator[bytes]:
    try:
        yield b""
        yield from body
    finally:
        span.end(status)


def _prefers(inbound: Inbound) -> bool:
    asked_for = inbound.headers.get("prefer", "").split(",")
    return PREFERENCE in [preference.partition(";")[0].strip().lower() for preference in asked_for]


def _durations(timing: Timing, started: int) -> str:
    spent: dict[str, int] = {}
    for stage, start, end in timing.stages:
        spent[stage] = spent.get(stage, 0) + end - start
    spent["total"] = time.perf_counter_ns() - started
    return ", ".join([*(f"{stage};dur={nanoseconds / 1e6:.3f}" for stage, nanoseconds in spent.items()), _origin()])


def _origin() -> str:
    """Return which replica and worker this is: a digest of the machine's name and the service's process, and a pid."""
    replica = sha256(f"{gethostname()}/{os.getppid()}".encode()).hexdigest()[:6]
    return f'replica;desc="{replica}", worker;desc="{os.getpid()}"'
