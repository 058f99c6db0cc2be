"""What each model has done since the service started, in all of its workers.

Source: Triton's statistics extension. Of its durations, `queue` is waiting for a batch, `compute_input` reading
sessions' states, `compute_infer` the forward, and `compute_output` committing the states.
"""

from carryover.api.inbound import Inbound
from carryover.api.json import reply
from carryover.api.response import Response
from carryover.api.v2.schemas import BatchStatistics, Duration, InferStatistics, ModelStatistics, Statistics
from carryover.engine import Engine
from carryover.errors import NotFoundError
from carryover.runtime.repository import Model


def of_all(engine: Engine, _: Inbound) -> Response:
    """Return the statistics of all models."""
    return reply(Statistics(model_stats=[entry for model in engine.repository for entry in _entries(engine, model)]))


def of_one(engine: Engine, inbound: Inbound) -> Response:
    """Return the statistics of one model, or of one version."""
    model = _find(engine, inbound.parameters["model"], inbound.parameters.get("version"))
    return reply(Statistics(model_stats=_entries(engine, model)))


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


def _entries(engine: Engine, model: Model) -> list[ModelStatistics]:
    return [_entry(engine, model.name, version) for version in model.versions]


def _entry(engine: Engine, model: str, version: str) -> ModelStatistics:
    totals = engine.statistics.of(model, version).totals()
    none = Duration(count=0, ns=0)
    return ModelStatistics(
        name=model,
        version=version,
        last_inference=totals.last,
        inference_count=totals.success,
        execution_count=sum(count for count, _ in totals.batches.values()),
        inference_stats=InferStatistics(
            success=Duration(count=totals.success, ns=totals.success_ns),
            fail=Duration(count=totals.fail, ns=totals.fail_ns),
            queue=Duration(count=totals.success, ns=totals.queue_ns),
            compute_input=Duration(count=totals.success, ns=totals.input_ns),
            compute_infer=Duration(count=totals.calls, ns=totals.infer_ns),
            compute_output=Duration(count=totals.success, ns=totals.output_ns),
            cache_hit=none,
            cache_miss=none,
        ),
        response_stats={},
        batch_stats=[
            BatchStatistics(
                batch_size=size,
                compute_input=none,
                compute_infer=Duration(count=count, ns=nanoseconds),
                compute_output=none,
            )
            for size, (count, nanoseconds) in totals.batches.items()
        ],
        memory_usage=[],
    )
