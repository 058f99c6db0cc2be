"""`instances` to arrays, and output arrays to `predictions`, by the shapes of a manifest."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any

import numpy as np
import orjson

from carryover.api.arrays import array, called, plain
from carryover.api.inbound import Inbound
from carryover.api.json import LARGE_BODY, by_size, in_parts, is_json, read
from carryover.api.numbers import Numbers
from carryover.api.v1.schemas import Classified, Predict
from carryover.engine import Operation
from carryover.errors import InvalidInputError
from carryover.runtime.datatypes import Array
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.time_steps import MOST
from carryover.threads import run_in_thread

MANY_ELEMENTS = 64 * 1024
"""Elements of outputs that take some 10 ms to encode."""
ROWS_OF_A_PART = 1024
_PLAIN_BODY = re.compile(rb'[ \t\r\n]*+\{[ \t\r\n]*+"instances"[ \t\r\n]*+:[][0-9eE+\-., \t\r\n]*+\}[ \t\r\n]*+')
_PLAIN_LINES = re.compile(rb'(?:[ \t\r]*+\{[ \t\r]*+"instances"[ \t\r]*+:[][0-9eE+\-., \t\r]*+\}[ \t\r]*+(?:\n|$))++')
_PLAIN_SESSIONS = re.compile(
    rb'\s*+\{\s*+"sessions"\s*+:\s*+\{\s*+(?:"(?!\.{1,2}")[A-Za-z0-9._~-]{1,128}"\s*+:[][0-9eE+\-.,\s]*+)++\}\s*+\}\s*+'
)


def read_instances(specs: Sequence[TensorSpec], inbound: Inbound) -> dict[str, Array]:
    """Read the instances of a request; those of a large body are made in a native thread.

    Raises:
        MediaTypeError, InvalidInputError: with the place and what would be right.

    """
    if (found := _plain(specs, inbound)) is not None:
        return found
    given = read(inbound, Predict).instances
    return by_size(inbound.body, lambda: instances(specs, given))


def _plain(specs: Sequence[TensorSpec], inbound: Inbound) -> dict[str, Array] | None:
    """Return the instances in a body of nothing but numbers for one input; None of any other, and of most invalid ones.

    Most requests are so, and are read in a third of the time.
    """
    body, spec = inbound.body, specs[0]
    if len(specs) > 1 or len(body) > LARGE_BODY or _PLAIN_BODY.fullmatch(body) is None or not is_json(inbound):
        return None
    try:
        found = plain(spec.datatype, orjson.loads(body)["instances"])
    except orjson.JSONDecodeError:
        return None
    return None if found is None else {spec.name: _shaped(spec, found, "instances")}


def predictions_of(operation: Operation) -> Any:
    """Return the predictions of an operation, to be encoded; many are made in a native thread, and encoded in parts."""
    model, outputs = operation.model, operation.outputs
    for output in outputs.values():
        if output.size > MANY_ELEMENTS:
            made = run_in_thread(lambda: predictions(model.outputs, outputs, model.labels))
            return in_parts(made, ROWS_OF_A_PART)
    return predictions(model.outputs, outputs, model.labels)


def instances(specs: Sequence[TensorSpec], values: list[Any] | Numbers) -> dict[str, Array]:
    """Turn the `instances` of a request into one array an input, each of the manifest's shape.

    Raises:
        InvalidInputError: with the place and what would be right.

    """
    if not values:
        raise InvalidInputError("instances is empty; expected at least one instance")
    first = values[0]
    specs = _given(specs, first)
    if len(specs) == 1 and not (type(first) is dict and specs[0].name in first):
        return {specs[0].name: _stack(specs[0], values, "instances")}
    columns: dict[str, list[Any]] = {spec.name: [] for spec in specs}
    for index, value in enumerate(values):
        if type(value) is not dict or value.keys() != columns.keys():
            found = f"an object with {sorted(value)}" if type(value) is dict else called(value)
            raise InvalidInputError(f"instances[{index}] must be an object with exactly {sorted(columns)}, not {found}")
        for name, column in columns.items():
            column.append(value[name])
    return {spec.name: _stack(spec, columns[spec.name], "instances", f".{spec.name}") for spec in specs}


def instances_of_many(specs: Sequence[TensorSpec], many: Sequence[Any]) -> list[dict[str, Array]] | None:
    """Return what `instances` makes of each of many lists; None unless they are plain: of one input, as long, valid."""
    joined = _joined(specs, many)
    return None if joined is None else parted(specs, joined, len(many))


def parted(specs: Sequence[TensorSpec], joined: Mapping[str, Array], parts: int) -> list[dict[str, Array]]:
    """Return as many instances of one input for each part."""
    spec, array = specs[0], joined[specs[0].name]
    axis = spec.instance_axis or 0
    before, count = (slice(None),) * axis, array.shape[axis] // parts
    return [{spec.name: array[(*before, slice(start, start + count))]} for start in range(0, parts * count, count)]


def instances_of_sessions(specs: Sequence[TensorSpec], data: bytes) -> tuple[list[str], dict[str, Array]] | None:
    """Return the names in the body of a step of many sessions, and what `instances` makes of one after another.

    None unless the body is plain: nothing but names and numbers, as many instances of one input for each, all valid.
    """
    if _PLAIN_SESSIONS.fullmatch(data) is None:
        return None
    try:
        given = orjson.loads(data)["sessions"]
    except orjson.JSONDecodeError:
        return None
    joined = _joined(specs, [*given.values()])
    return None if joined is None else ([*given], joined)


def _joined(specs: Sequence[TensorSpec], many: Sequence[Any]) -> dict[str, Array] | None:
    """Return as many instances of one input for each of many, of one after another; None if they are not plain."""
    spec = specs[0]
    if len(specs) > 1 or spec.instance_axis is None:
        return None
    try:
        stacked = array(spec.datatype, list(many), "instances")
        if stacked.ndim == 1 or not stacked.size:
            return None
        return {spec.name: _shaped(spec, stacked.reshape(-1, *stacked.shape[2:]), "instances")}
    except InvalidInputError:
        return None


def instances_of_lines(
    specs: Sequence[TensorSpec], lines: Sequence[bytes]
) -> tuple[dict[str, Array], list[int]] | None:
    """Return what `instances` makes of the lines of a stream, one after another, and how many instances each has.

    None unless all are plain: nothing but numbers for one input, together at most `MOST` instances, all valid. No line
    completes another one: each starts and ends with the only braces in it.
    """
    text = b"\n".join(lines)
    if len(specs) > 1 or len(text) > LARGE_BODY or _PLAIN_LINES.fullmatch(text) is None:
        return None
    try:
        found = [line["instances"] for line in orjson.loads(b"[%b]" % text.replace(b"\n", b","))]
        counts = list(map(len, found))
        if not all(counts) or sum(counts) > MOST:
            return None
        return {specs[0].name: _stack(specs[0], list(chain.from_iterable(found)), "instances")}, counts
    except (InvalidInputError, TypeError, ValueError):
        return None


def _given(specs: Sequence[TensorSpec], value: Any) -> Sequence[TensorSpec]:
    """The inputs that an instance gives, and must: an optional one may be left out, of all instances."""
    if not any(spec.optional for spec in specs):
        return specs
    return [spec for spec in specs if not spec.optional or (type(value) is dict and spec.name in value)]


def predictions(specs: Sequence[TensorSpec], outputs: Mapping[str, Array], labels: Sequence[str] | None) -> Any:
    """Turn output arrays into the `predictions` of a response, one entry an instance.

    A classifier gives labels and probabilities; a model with one output its values; one with several an object by
    output name. An output without an instance axis is of the call as a whole: one entry, or the same in every entry.
    """
    columns = [_unstack(spec, outputs[spec.name]) for spec in specs]
    if labels is not None:
        # The manifest says that the last axis is that of the labels.
        best = columns[0].argmax(-1).tolist()
        return [
            Classified(label=_label(labels, index), probabilities=row)
            for index, row in zip(best, columns[0], strict=False)  # to ask an array for one more row takes a while
        ]
    if len(specs) == 1:
        return columns[0]
    names = [spec.name for spec in specs]
    count = max(len(column) for column in columns)
    rows = [column if len(column) == count else np.repeat(column, count, 0) for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*rows, strict=True)]


def predictions_of_many(operations: Sequence[Operation]) -> list[Any] | None:
    """Return what `predictions_of` makes of each of many operations of one model; None unless all are plain.

    They are where each output has an axis of instances, of which there are equally many, and together few elements.
    """
    model = operations[0].model
    axes = [spec.instance_axis for spec in model.outputs]
    columns = [[operation.outputs[spec.name] for operation in operations] for spec in model.outputs]
    counts = [
        [array.shape[axis] for array in column] for column, axis in zip(columns, axes, strict=True) if axis is not None
    ]
    if None in axes or any(others != counts[0] for others in counts):
        return None
    try:
        joined = [np.concatenate(column, axis=axis or 0) for column, axis in zip(columns, axes, strict=True)]
    except ValueError:  # of other sizes
        return None
    if sum(array.size for array in joined) > MANY_ELEMENTS:
        return None
    outputs = {spec.name: array for spec, array in zip(model.outputs, joined, strict=True)}
    rows = predictions(model.outputs, outputs, model.labels)
    return [rows[end - count : end] for end, count in zip(accumulate(counts[0]), counts[0], strict=True)]


def _stack(spec: TensorSpec, values: list[Any] | Numbers, where: str, suffix: str = "") -> Array:
    """Instances, stacked along the instance axis into the shape of `spec`."""
    return _shaped(spec, array(spec.datatype, values, where, suffix), where, suffix)


def _shaped(spec: TensorSpec, stacked: Array, where: str, suffix: str = "") -> Array:
    """Return an array with one instance in each row in the shape of `spec`."""
    wanted = spec.instance_shape
    got = stacked.shape[1:]
    full = _restore(got, wanted)
    if full is None:
        shown = [size for size in wanted if size != 1] or list(wanted)
        given = f"has shape {list(got)}" if got else "is a single number"
        names = f" (of the input {spec.name!r})" if suffix else ""
        raise InvalidInputError(
            f"{where}: each instance{names} must have shape {_sizes(wanted)}"
            f"{'' if len(shown) == len(wanted) else f', or {_sizes(shown)}'}; the given one {given}"
        )
    axis = spec.instance_axis
    if axis is None:
        if len(stacked) != 1:
            raise InvalidInputError(f"{where} must hold exactly one instance: the model's input has no axis for more")
        return stacked.reshape(full)
    if full is not got:
        stacked = stacked.reshape(len(stacked), *full)
    return stacked if axis == 0 else np.moveaxis(stacked, 0, axis)


@lru_cache
def _restore(got: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...] | None:
    """Put dropped dimensions of size 1 back; None where `got` is not `wanted` with some of them dropped.

    A varying axis (-1) takes any size of at least 1.
    """
    if len(got) == len(wanted) and all(w in (-1, g) and g for g, w in zip(got, wanted, strict=True)):
        return got
    full: list[int] = []
    rest = list(got)
    for position, size in enumerate(wanted):
        if rest and (size == -1 or rest[0] == size) and (size != 1 or len(rest) > _least(wanted[position + 1 :])):
            full.append(rest.pop(0))
        elif size == 1:
            full.append(1)
        else:
            return None
    return None if rest or 0 in full else tuple(full)


def _least(wanted: Sequence[int]) -> int:
    """The fewest dimensions that can stand for `wanted`."""
    return sum(size != 1 for size in wanted)


def _unstack(spec: TensorSpec, output: Array) -> Array:
    """The instance axis first, contiguous, without the axis that only the batching needs."""
    axis, batch = spec.instance_axis, spec.batch_dim
    if axis is None:
        output = output[np.newaxis]
    elif axis:
        output = np.moveaxis(output, axis, 0)
    if batch is not None and batch != axis:
        # The axes before the one that has gone to the front stand one further.
        batch += axis is None or batch < axis
        if output.shape[batch] == 1:
            output = output.squeeze(batch)
    return np.ascontiguousarray(output)


def _label(labels: Sequence[str], index: Any) -> Any:
    return [_label(labels, i) for i in index] if isinstance(index, list) else labels[index]


def _sizes(shape: Sequence[int]) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"
