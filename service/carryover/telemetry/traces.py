"""Traces: the one that a request belongs to, where its time went, and its spans for OpenTelemetry.

Sources: https://www.w3.org/TR/trace-context/; https://opentelemetry.io/docs/specs/semconv/http/http-spans/.

OpenTelemetry is imported only where an endpoint is configured. Spans are made only of requests whose trace is sampled,
once their response is there.
"""

import re
import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from carryover.errors import ConfigurationError

_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_ERROR = 500
_STATUS = "http.response.status_code"
_MOST_BATCHES = 256
"""Of one request, that have spans: a stream may have any number."""

Stage = tuple[str, int, int]
"""The name of a stage, and when it started and ended, in nanoseconds of `time.perf_counter_ns`."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace of a request, and the span in it that has made the request; ids are hexadecimal."""

    id: str
    span: str
    sampled: bool

    @property
    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.id}-{self.span}-{int(self.sampled):02x}"


Times = tuple[int, int, int, int]
"""When a batch was started, loaded, run and committed."""


@dataclass(slots=True)
class Timing:
    """Where the time of a request went; one whose steps ran in several batches has the stages of each.

    Once it is `streaming`, nothing is kept: stages go to the `span`, where there is one.
    """

    trace: Trace | None = None
    stages: list[Stage] = field(default_factory=list)
    span: "Span | None" = None
    streaming: bool = False
    _last: Times | None = None

    def note(self, queued: int, times: Times) -> None:
        """Note when an operation was queued, and the times of its batch, which may have others of the request."""
        if times is self._last:
            return
        self._last, marks = times, (queued, *times)
        names = ("queue", "load", "forward", "commit")
        found = [(name, marks[number], marks[number + 1]) for number, name in enumerate(names)]
        if not self.streaming:
            self.stages += found
        elif self.span is not None:
            self.span.add(found)


def parse(header: str | None) -> Trace | None:
    """Return the trace that a `traceparent` names; None where it names none, or is malformed."""
    found = None if header is None else _PARENT.fullmatch(header.strip())
    if found is None or (found[1] == "00" and found[5]):
        return None
    return Trace(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))


def require_library() -> None:
    """Raise unless OpenTelemetry is installed.

    Raises:
        ConfigurationError: it is not.

    """
    try:
        import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError:
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_ENDPOINT needs OpenTelemetry; install it with pip install 'carryover[otel]'"
        ) from None


class Tracer:
    """Sends spans to an OpenTelemetry collector: `endpoint` takes OTLP over HTTP."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
        self._provider = TracerProvider(resource=Resource.create({"service.name": "carryover"}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("carryover")

    def start(self, trace: Trace, name: str, attributes: dict[str, Any], start: int) -> "Span":
        """Return the span of a request that was started at `start`."""
        from opentelemetry import trace as api  # noqa: PLC0415

        flags = api.TraceFlags(_SAMPLED)
        remote = api.SpanContext(int(trace.id, 16), int(trace.span, 16), is_remote=True, trace_flags=flags)
        parent = api.set_span_in_context(api.NonRecordingSpan(remote))
        offset = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            name, parent, kind=api.SpanKind.SERVER, attributes=attributes, start_time=start + offset
        )
        return Span(self._tracer, span, trace, offset)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class Span:
    """The span of a request, which is sent when it ends; the stages in it are sent before.

    `offset` is what is to be added to nanoseconds of `time.perf_counter_ns` for those since 1970: read again for the
    stages, it could differ, and put them outside the request.
    """

    def __init__(self, tracer: Any, span: Any, trace: Trace, offset: int) -> None:
        from opentelemetry import trace as api  # noqa: PLC0415

        self._tracer, self._span, self._offset = tracer, span, offset
        self._inside = api.set_span_in_context(span)
        self._error = api.StatusCode.ERROR
        self._batches = 0
        self.trace = Trace(trace.id, f"{span.get_span_context().span_id:016x}", sampled=True)

    def add(self, stages: list[Stage]) -> None:
        """Make a span for each stage of a batch; those of too many batches have none."""
        self._batches += 1
        if self._batches > _MOST_BATCHES:
            return
        offset = self._offset
        for name, first, last in stages:
            self._tracer.start_span(name, self._inside, start_time=first + offset).end(last + offset)

    def end(self, status: int) -> None:
        """End it now, with the status of the response."""
        self._span.set_attribute(_STATUS, status)
        if self._batches > 1:
            self._span.set_attribute("carryover.batches", self._batches)
        if status >= _ERROR:
            self._span.set_status(self._error)
        self._span.end(time.perf_counter_ns() + self._offset)
