"""`/v1/accumulators`: running totals, by name."""

from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, Response

from service.api import bodies
from service.api.json import read, reply
from service.engine import Engine
from service.errors import InvalidInputError
from service.model.repository import Model
from service.model.tensors import Array, array

MODEL = "accumulator"
"""The model whose sessions the accumulators are."""


def routes(engine: Engine) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("accumulators", __name__)

    def model() -> Model:
        return engine.repository.model(MODEL)

    @blueprint.post("/v1/accumulators/<name>")
    def add(name: str) -> Response:
        bodies.name(name)
        values = list(_leaves(read(bodies.Accumulate).values))
        if not values:
            raise InvalidInputError("values is empty: it takes at least one number")
        step = engine.accumulate(model(), name, _inputs(model(), values))
        return _totals(name, step.outputs, step.number)

    @blueprint.get("/v1/accumulators/<name>")
    def show(name: str) -> Response:
        # Nothing added: the module answers with its totals as they are.
        outputs, step = engine.peek(model(), bodies.name(name), _inputs(model(), []))
        return _totals(name, outputs, step)

    @blueprint.delete("/v1/accumulators/<name>")
    def delete(name: str) -> Response:
        engine.delete(model(), bodies.name(name))
        return Response(status=204)

    return blueprint


def _inputs(model: Model, values: list[Any]) -> dict[str, Array]:
    spec = model.inputs[0]
    return {spec.name: array(spec.datatype, values, "values")}


def _totals(name: str, outputs: Mapping[str, Array], step: int) -> Response:
    totals = {output: value.item() for output, value in outputs.items()}
    return reply({"accumulator": name, **totals, "step": step}, step=step)


def _leaves(values: list[Any]) -> Iterator[Any]:
    """What is in a nest of lists, from left to right."""
    for value in values:
        if type(value) is list:
            yield from _leaves(value)
        else:
            yield value
