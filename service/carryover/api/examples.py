"""Requests that the models which are served take: on the numbers that each was tried on when it was loaded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from carryover.runtime.datatypes import Array
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.repository import Model

_ELEMENTS = 256
"""The most elements that an example has."""
_MODELS = 20
"""The most models that have one."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a model takes: `instances` in the form of `/v1`, `inputs` in that of `/v2`."""

    model: str
    version: str
    stateful: bool
    instances: list[Any]
    inputs: list[dict[str, Any]]


def of(models: Iterable[Model]) -> list[Example]:
    """Return examples for the models; those whose inputs are large have none."""
    return list(_found(models))[:_MODELS]


def _found(models: Iterable[Model]) -> Iterator[Example]:
    for model in models:
        needed = [spec for spec in model.inputs if not spec.optional]
        arrays = {spec.name: spec.filled(spec.example_shape) for spec in needed}
        instances = _instances(model, needed, arrays)
        if instances is not None and sum(array.size for array in arrays.values()) <= _ELEMENTS:
            inputs = [_input(spec, arrays[spec.name]) for spec in needed]
            yield Example(model.name, model.default.version, model.stateful, instances, inputs)


def _instances(model: Model, specs: list[TensorSpec], arrays: dict[str, Array]) -> list[Any] | None:
    """Return arrays as instances; None where they have different numbers of them."""
    columns = {spec.name: _column(spec, arrays[spec.name]) for spec in specs}
    if len(model.inputs) == 1:
        return columns[specs[0].name]
    if len({len(column) for column in columns.values()}) != 1:
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _column(spec: TensorSpec, array: Array) -> list[Any]:
    axis = spec.instance_axis
    values: list[Any] = [array.tolist()] if axis is None else np.moveaxis(array, axis, 0).tolist()
    return values


def _input(spec: TensorSpec, array: Array) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": spec.datatype.name,
        "shape": list(array.shape),
        "data": array.reshape(-1).tolist(),
    }
