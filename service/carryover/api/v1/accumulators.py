"""`/v1/accumulators`: running totals, by name."""

from collections.abc import Iterator
from typing import Any, cast

from carryover.api import conditions, names
from carryover.api.arrays import array
from carryover.api.inbound import Inbound
from carryover.api.json import by_size, read, reply
from carryover.api.numbers import Numbers
from carryover.api.perform import perform
from carryover.api.response import Response
from carryover.api.v1.models import read_by
from carryover.api.v1.schemas import Accumulate, Totals
from carryover.api.v1.sessions import deleted
from carryover.engine import Engine, Operation
from carryover.engine.operations import Delete, Peek, Step
from carryover.errors import InvalidInputError
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model

MODEL = "accumulator"
"""The model whose sessions the accumulators are."""


def add(engine: Engine, inbound: Inbound) -> Response:
    """Add values to an accumulator; one that does not exist is created."""
    name, model = _find(engine, inbound)
    given = read(inbound, Accumulate).values
    values = by_size(inbound.body, lambda: _values(model, given))
    step = Step(model, name, {model.inputs[0].name: values}, conditions.read(inbound), create=engine.ttl)
    return perform(engine, inbound, step, _totals)


def show(engine: Engine, inbound: Inbound) -> Response:
    """Return an accumulator's totals."""
    name, model = _find(engine, inbound)
    # Nothing added: the module returns its totals as they are.
    spec = model.inputs[0]
    nothing = {spec.name: array(spec.datatype, [], "values")}
    return perform(engine, inbound, Peek(model, name, nothing, conditions.read(inbound)), _totals)


def delete(engine: Engine, inbound: Inbound) -> Response:
    """Delete an accumulator."""
    name, model = names.of_path(inbound, "name"), engine.repository.model(MODEL)
    return perform(engine, inbound, Delete(model, name, preconditions=conditions.read(inbound)), deleted)


def _find(engine: Engine, inbound: Inbound) -> tuple[str, Model]:
    """The accumulator's name and the model, with its version only where that takes other inputs."""
    name, model = names.of_path(inbound, "name"), engine.repository.model(MODEL)
    return name, read_by(engine, model, name)


def _values(model: Model, given: list[Any] | Numbers) -> Array:
    """Return the values to add, in whatever nest of lists they came."""
    datatype = model.inputs[0].datatype
    if isinstance(given, Numbers):
        return array(datatype, given, "values").reshape(-1)
    values = list(_leaves(given))
    if not values:
        raise InvalidInputError("values is empty; expected at least one number")
    return array(datatype, values, "values")


def _totals(operation: Operation) -> Response:
    totals = {output: value.item() for output, value in operation.outputs.items()}
    body = cast(Totals, {"accumulator": operation.session, **totals, "step": operation.step})
    return reply(body, step=operation.step)


def _leaves(values: list[Any]) -> Iterator[Any]:
    """What is in a nest of lists, from left to right."""
    for value in values:
        if type(value) is list:
            yield from _leaves(value)
        else:
            yield value
