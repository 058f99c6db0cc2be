"""What each model has done since the service started, in all of its workers.

Source: Triton's statistics extension. Of its durations, `queue` is waiting for a batch, `compute_input` reading
sessions' states, `compute_infer` the forward, and `compute_output` committing the states.
"""

from typing import Any

from flask import Blueprint, Response

from carryover.api.json import reply
from carryover.api.routing import model_route
from carryover.api.v2.models import ROOT
from carryover.engine import Engine
from carryover.errors import NotFoundError
from carryover.runtime.repository import Model


def routes(engine: Engine) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("statistics", __name__)

    @blueprint.get("/v2/models/stats")
    def of_all() -> Response:
        return reply({"model_stats": [entry for model in engine.repository for entry in _entries(engine, model)]})

    @model_route(blueprint, "GET", "/stats", ROOT)
    def of_one(model: str, version: str | None) -> Response:
        return reply({"model_stats": _entries(engine, _find(engine, model, version))})

    return blueprint


def _find(engine: Engine, name: str, version: str | None) -> Model:
    """Return a model, or one of its versions; where it is not there, in Triton's words for statistics."""
    try:
        engine.repository.model(name)
    except NotFoundError:
        raise NotFoundError(f"requested model {name!r:.80} is not available") from None
    try:
        return engine.repository.model(name, version)
    except NotFoundError:
        raise NotFoundError(f"requested model version is not available for model {name!r:.80}") from None


def _entries(engine: Engine, model: Model) -> list[dict[str, Any]]:
    return [_entry(engine, model.name, version) for version in model.versions]


def _entry(engine: Engine, model: str, version: str) -> dict[str, Any]:
    totals = engine.statistics.of(model, version).totals()
    none = _duration(0, 0)
    return {
        "name": model,
        "version": version,
        "last_inference": totals.last,
        "inference_count": totals.success,
        "execution_count": sum(count for count, _ in totals.batches.values()),
        "inference_stats": {
            "success": _duration(totals.success, totals.success_ns),
            "fail": _duration(totals.fail, totals.fail_ns),
            "queue": _duration(totals.success, totals.queue_ns),
            "compute_input": _duration(totals.success, totals.input_ns),
            "compute_infer": _duration(totals.calls, totals.infer_ns),
            "compute_output": _duration(totals.success, totals.output_ns),
            "cache_hit": none,
            "cache_miss": none,
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": none,
                "compute_infer": _duration(count, nanoseconds),
                "compute_output": none,
            }
            for size, (count, nanoseconds) in totals.batches.items()
        ],
        "memory_usage": [],
    }


def _duration(count: int, nanoseconds: int) -> dict[str, int]:
    return {"count": count, "ns": nanoseconds}
