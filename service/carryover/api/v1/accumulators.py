"""`/v1/accumulators`: running totals, by name."""

from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, Response, request

from carryover.api import once
from carryover.api.json import read, reply
from carryover.api.v1 import schemas
from carryover.api.v1.sessions import if_match, if_none_match, migrate
from carryover.engine import Engine, Request, Step
from carryover.errors import InvalidInputError
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model
from carryover.runtime.tensors import array

MODEL = "accumulator"
"""The model whose sessions the accumulators are."""


def routes(engine: Engine) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("accumulators", __name__)
    render = once.renderer(_answer_of)

    def model() -> Model:
        return engine.repository.model(MODEL)

    @blueprint.post("/v1/accumulators/<name:name>")
    def add(name: str) -> Response:
        kept = once.from_header()
        schemas.name(name)
        values = list(_leaves(read(schemas.Accumulate).values))
        if not values:
            raise InvalidInputError("values is empty: it takes at least one number")
        step = Step(model(), name, _inputs(model(), values), expected=if_match(), create=engine.ttl)
        step.once, step.render, step.migrate = kept, render, migrate()
        step.exists, step.new = "HTTP_IF_MATCH" in request.environ, if_none_match()
        engine.run([step])
        return once.answer_step(step, _answer_of)

    @blueprint.get("/v1/accumulators/<name:name>")
    def show(name: str) -> Response:
        # Nothing added: the module answers with its totals as they are.
        outputs, step = engine.peek(model(), schemas.name(name), _inputs(model(), []), if_match())
        return reply(_totals(name, outputs, step), step=step)

    @blueprint.delete("/v1/accumulators/<name:name>")
    def delete(name: str) -> Response:
        engine.delete(model(), schemas.name(name), Request(if_match()))
        return Response(status=204)

    return blueprint


def _inputs(model: Model, values: list[Any]) -> dict[str, Array]:
    spec = model.inputs[0]
    return {spec.name: array(spec.datatype, values, "values")}


def _answer_of(step: Step) -> dict[str, Any]:
    return _totals(step.session, step.outputs, step.number)


def _totals(name: str, outputs: Mapping[str, Array], step: int) -> dict[str, Any]:
    totals = {output: value.item() for output, value in outputs.items()}
    return {"accumulator": name, **totals, "step": step}


def _leaves(values: list[Any]) -> Iterator[Any]:
    """What is in a nest of lists, from left to right."""
    for value in values:
        if type(value) is list:
            yield from _leaves(value)
        else:
            yield value
