"""`/metrics`: what the service has counted and measured, over all of its workers, for Prometheus.

docs/operations.md describes each metric.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus

from prometheus_client.metrics_core import Metric

from carryover import __version__
from carryover.api.inbound import Inbound
from carryover.api.response import Response
from carryover.api.route import Route
from carryover.engine import Engine
from carryover.telemetry import prometheus
from carryover.telemetry.counters import STAGES, Totals
from carryover.telemetry.metrics import Distribution, Histograms, Metrics
from carryover.telemetry.prometheus import Labels
from carryover.telemetry.request_log import Entry
from carryover.threads import run_in_thread

OTHER = "other"
"""The method and route of a request for which there is no route."""
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TRITON: tuple[tuple[str, str, Callable[[Totals], float]], ...] = (
    ("request_success", "Inference requests that succeeded.", lambda totals: totals.success),
    ("request_failure", "Inference requests that failed.", lambda totals: totals.fail),
    ("count", "Inferences.", lambda totals: totals.success),
    ("exec_count", "Forwards.", lambda totals: sum(count for count, _ in totals.batches.values())),
    ("request_duration_us", "Time of requests.", lambda totals: totals.success_ns // 1000),
    ("queue_duration_us", "Time that requests waited for a batch.", lambda totals: totals.queue_ns // 1000),
    ("compute_input_duration_us", "Time to load states.", lambda totals: totals.input_ns // 1000),
    ("compute_infer_duration_us", "Time of forwards.", lambda totals: totals.infer_ns // 1000),
    ("compute_output_duration_us", "Time to commit states.", lambda totals: totals.output_ns // 1000),
    ("pending_request_count", "Requests that wait for a batch.", lambda totals: totals.queued),
)
"""Triton's names after `nv_inference_`, what they count, and how."""
_STATUSES = [
    int(status) for status in HTTPStatus if status >= HTTPStatus.OK or status is HTTPStatus.SWITCHING_PROTOCOLS
]


def show(engine: Engine, _: Inbound) -> Response:
    """Return all metrics."""
    engine.sample()
    families = (*_of_requests(engine.metrics), *_of_models(engine), *_of_store(engine), *_of_process(engine))
    return Response(run_in_thread(lambda: prometheus.text(families)), media_type=prometheus.MEDIA_TYPE)


def count_requests(metrics: Metrics, routes: Iterable[Route]) -> None:
    """Have the requests of each route and status counted; None stands for those without a route."""
    metrics.requests = Histograms((route, status) for route in (*routes, None) for status in _STATUSES)


def count_other(engine: Engine, entry: Entry) -> None:
    """Count and log a request for which there is no route."""
    engine.metrics.requests.observe((None, entry.status), entry.duration)
    if entry.status >= engine.request_log.least_status:
        engine.request_log.add(entry)


def _of_requests(metrics: Metrics) -> Iterator[Metric]:
    series: dict[Labels, Distribution] = {}
    for (route, status), found in metrics.requests.read():
        method, path = (OTHER, OTHER) if route is None else (route.method, route.template)
        series[method, path, str(status)] = found
    yield prometheus.durations(
        "carryover_http_request_duration_seconds",
        "Time from a request's head to its response; of a stream, to the head of the response.",
        ("method", "route", "status"),
        series.items(),
    )
    yield prometheus.gauge("carryover_streams", "Streams that are open.", (), {(): metrics.streams.read()})


def _of_models(engine: Engine) -> Iterator[Metric]:
    versions = {(model, version): totals for model, version, totals in engine.statistics}
    yield prometheus.durations(
        "carryover_stage_duration_seconds",
        "Time that requests spent in each stage: waiting for a batch, loading states, the forward, committing states.",
        ("model", "version", "stage"),
        [
            ((*labels, stage), totals.stages[stage])
            for labels, totals in versions.items()
            for stage in STAGES
            if any(totals.stages[stage].buckets)
        ],
    )
    sizes: dict[int, int] = {}
    for totals in versions.values():
        for size, (count, _) in totals.batches.items():
            sizes[size] = sizes.get(size, 0) + count
    largest = engine.limits.batch
    bounds = (*(size for size in _SIZES if size < largest), largest)
    yield prometheus.sizes("carryover_batch_size", "Requests in each forward.", bounds, sizes)
    yield prometheus.counter(
        "carryover_steps", "Steps that were committed.", ("model", "version"),
        {labels: totals.steps for labels, totals in versions.items()},
    )  # fmt: skip
    yield from _by_model(versions)
    if engine.metrics.triton:
        yield from _by_triton(versions)


def _by_model(versions: dict[tuple[str, str], Totals]) -> Iterator[Metric]:
    queued: dict[Labels, float] = {}
    conflicts: dict[Labels, float] = {}
    replays: dict[Labels, float] = {}
    for (model, _), totals in versions.items():
        for series, value in ((queued, totals.queued), (conflicts, totals.conflicts), (replays, totals.replays)):
            series[model,] = series.get((model,), 0) + value
    label = ("model",)
    yield prometheus.gauge("carryover_queue_requests", "Requests that wait for a batch.", label, queued)
    yield prometheus.counter(
        "carryover_step_conflicts", "Steps that lost the race for their session and were run again.", label, conflicts
    )
    yield prometheus.counter(
        "carryover_step_replays", "Steps that were answered with the response stored for their key.", label, replays
    )


def _by_triton(versions: dict[tuple[str, str], Totals]) -> Iterator[Metric]:
    """Yield metrics as Triton names them (docs/user_guide/metrics.md), so that dashboards made for it work."""
    for name, description, read in _TRITON:
        series: dict[Labels, float] = {labels: read(totals) for labels, totals in versions.items()}
        yield prometheus.untyped(f"nv_inference_{name}", description, ("model", "version"), series)


def _of_store(engine: Engine) -> Iterator[Metric]:
    metrics = engine.metrics
    counts = engine.store.counts()
    yield prometheus.gauge(
        "carryover_sessions",
        "Live sessions of all replicas and keys, when they were last counted.",
        ("model",),
        {} if counts is None else {(m.name,): counts.get(m.name, 0) for m in engine.repository if m.stateful},
    )
    yield prometheus.counter(
        "carryover_sessions_ended", "Sessions that ended, by how.", ("how",),
        {(how,): count for how, count in metrics.ended.read().items()},
    )  # fmt: skip
    yield prometheus.gauge(
        "carryover_redis_up", "Whether every worker can use Redis.", (), {(): float(metrics.redis_down.read() == 0)}
    )
    yield prometheus.durations(
        "carryover_redis_round_trip_seconds",
        "Time that loading or committing a batch, or looking at a session, took in Redis.",
        ("operation",),
        [((operation,), found) for operation, found in metrics.round_trips.read()],
    )
    yield prometheus.counter(
        "carryover_unknown_commits", "Requests of which it is not known whether they were committed.", (),
        {(): metrics.unknown.read()["commits"]},
    )  # fmt: skip


def _of_process(engine: Engine) -> Iterator[Metric]:
    yield prometheus.durations(
        "carryover_loop_lag_seconds",
        "How late the event loop of a worker was, looked at ten times a second.",
        (),
        [((), found) for _, found in engine.metrics.lag.read()],
    )
    yield prometheus.info(
        "carryover_build",
        "The version of the service.",
        [{"version": __version__, "python": platform.python_version()}],
    )
    yield prometheus.info(
        "carryover_model",
        "The versions that are served, and the fingerprints that their sessions are bound to.",
        [
            {"model": model.name, "version": version.version, "fingerprint": version.fingerprint.hex()}
            for model in engine.repository
            for version in model.versions.values()
        ],
    )
