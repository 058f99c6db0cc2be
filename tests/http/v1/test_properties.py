"""Properties that hold for all shapes, datatypes and values."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.client import Client, problem, strict_json
from tests.support.repository import DATATYPES, SHAPES
from tests.support.service import Service

Nest = Any
Array = NDArray[Any]

RANGES = {
    "INT64": (-(2**63), 2**63 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "INT8": (-(2**7), 2**7 - 1),
    "UINT8": (0, 2**8 - 1),
}
WIDTHS: dict[str, Literal[16, 32, 64]] = {"FP64": 64, "FP32": 32, "FP16": 16}


@pytest.fixture(scope="module")
def steady(identity_service: Service) -> Iterator[Client]:
    """A connection that all the examples of a property share."""
    with identity_service.client() as client:
        yield client


def values(datatype: str) -> st.SearchStrategy[Any]:
    """Every value of a datatype that JSON can name."""
    if datatype == "BOOL":
        return st.booleans()
    if datatype in RANGES:
        least, most = RANGES[datatype]
        return st.integers(least, most)
    if datatype == "BF16":
        # The upper half of a float32.
        bits = st.integers(0, 2**16 - 1).filter(lambda upper: upper & 0x7F80 != 0x7F80)
        return bits.map(lambda upper: float(np.array([upper << 16], np.uint32).view(np.float32)[0]))
    return st.floats(allow_nan=False, allow_infinity=False, width=WIDTHS[datatype])


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str, Array, int | None]:
    """A model, its datatype, an array of its whole shape, and the axis that instances lie along."""
    datatype = draw(st.sampled_from(DATATYPES))
    index = draw(st.integers(0, len(SHAPES) - 1))
    wanted = SHAPES[index]
    axis = wanted.index(-1) if -1 in wanted else None
    shape = [draw(st.integers(1, 4)) if size == -1 else size for size in wanted]
    count = int(np.prod(shape))
    leaves = draw(st.lists(values(datatype), min_size=count, max_size=count))
    array = np.empty(count, object)
    array[:] = leaves
    return f"identity-{datatype.lower()}-{index}", datatype, array.reshape(shape), axis


def nested(array: Array, axis: int | None) -> list[Nest]:
    """What a client sends: a list of instances."""
    return [array.tolist()] if axis is None else list(np.moveaxis(array, axis, 0).tolist())


def same(answer: Nest, sent: Nest, datatype: str) -> bool:
    """Whether two nests hold the same; JSON has the shortest decimal that names a value of the datatype."""
    if isinstance(sent, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(sent)
            and all(same(a, s, datatype) for a, s in zip(answer, sent, strict=True))
        )
    if datatype in ("FP32", "FP16", "BF16"):
        kind = np.float16 if datatype == "FP16" else np.float32
        return isinstance(answer, float) and bool(kind(answer) == kind(sent))
    return type(answer) is type(sent) and bool(answer == sent)


@given(call=calls())
@settings(deadline=None, max_examples=250)
def test_what_goes_in_comes_out(steady: Client, call: tuple[str, str, Array, int | None]) -> None:
    model, datatype, array, axis = call
    sent = nested(array, axis)
    assert same(steady.predict(model, sent), sent, datatype)


@given(call=calls(), data=st.data())
@settings(deadline=None, max_examples=150)
def test_dimensions_of_size_1_may_be_dropped(
    steady: Client, call: tuple[str, str, Array, int | None], data: st.DataObject
) -> None:
    model, datatype, array, axis = call
    wanted = SHAPES[int(model.rpartition("-")[2])]
    droppable = [i for i, size in enumerate(wanted) if size == 1]
    dropped = data.draw(st.sets(st.sampled_from(droppable)) if droppable else st.just(set()))
    moved = array if axis is None else np.moveaxis(array, axis, 0)
    # After the move the axes before the instances' own stand one further.
    places = [i + 1 if axis is not None and i < axis else i for i in dropped]
    short = moved.squeeze(tuple(places)) if places else moved
    sent = [short.tolist()] if axis is None else short.tolist()
    assert same(steady.predict(model, sent), nested(array, axis), datatype)


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**300, 10**310),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=3),
    st.just({}),
)
nests = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
models = st.builds(
    "identity-{}-{}".format, st.sampled_from([d.lower() for d in DATATYPES]), st.integers(0, len(SHAPES) - 1)
)


@given(model=st.one_of(models, st.just("mixed")), instances=st.one_of(st.lists(nests, max_size=4), nests))
@settings(deadline=None, max_examples=400)
def test_anything_at_all_is_answered_or_rejected(steady: Client, model: str, instances: Nest) -> None:
    answer = steady.post(f"/v1/models/{model}:predict", {"instances": instances})
    assert answer.status in (200, 400), answer.body
    if answer.status == 400:
        problem(answer, 400)
    else:
        assert len(answer.json["predictions"]) == len(instances)


@given(call=calls(), data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_ragged_nest_is_rejected(
    steady: Client, call: tuple[str, str, Array, int | None], data: st.DataObject
) -> None:
    model, _, array, axis = call
    sent = nested(array, axis)
    lists: list[list[Nest]] = []

    def collect(nest: Nest, depth: int) -> None:
        if isinstance(nest, list):
            if depth > 0:
                lists.append(nest)
            for inner in nest:
                collect(inner, depth + 1)

    collect(sent, 0)
    deep = [one for one in lists if not isinstance(one[0], list)]
    if len(deep) < 2:
        return  # nothing to be ragged against
    victim = deep[data.draw(st.integers(0, len(deep) - 1))]
    if data.draw(st.booleans()):
        victim.append(victim[0])
    else:
        victim.pop()
    problem(steady.post(f"/v1/models/{model}:predict", {"instances": sent}), 400)


@given(
    body=st.one_of(
        st.binary(max_size=40), st.text(max_size=40).map(str.encode), nests.map(lambda n: json.dumps(n).encode())
    )
)
@settings(deadline=None, max_examples=200)
def test_any_body_is_answered_or_rejected(steady: Client, body: bytes) -> None:
    for path in ("/v1/models/sum:predict", "/v1/models/sum/sessions:predict", "/v1/accumulators/anything"):
        answer = steady.post(path, body)
        assert answer.status == 400, (path, answer.body)
        problem(answer, 400)


@given(nest=st.recursive(st.floats(-1e6, 1e6), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=30))
@settings(deadline=None, max_examples=100)
def test_an_accumulator_takes_any_nesting(steady: Client, nest: Nest) -> None:
    flat: list[float] = []

    def collect(part: Nest) -> None:
        if isinstance(part, list):
            for inner in part:
                collect(inner)
        else:
            flat.append(part)

    collect(nest)
    steady.delete("/v1/accumulators/any-nesting")
    totals = steady.post("/v1/accumulators/any-nesting", {"values": [nest]}).expect()
    assert totals["count"] == len(flat)
    assert totals["minimum"] == min(flat)
    assert totals["maximum"] == max(flat)
    assert abs(totals["sum"] - sum(map(float, flat))) <= 1e-6


@given(name=st.text(max_size=10))
@settings(deadline=None, max_examples=150)
def test_any_session_name_is_taken_or_rejected(steady: Client, name: str) -> None:
    answer = steady.post("/v1/models/sum/sessions", {"session": name})
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~-")
    if name and set(name) <= allowed and name not in (".", ".."):
        answer.expect(201)
        assert steady.delete(answer.headers["Location"]).status == 204
    elif name not in (".", ".."):
        problem(answer, 400)


def test_responses_are_json_without_extensions(steady: Client) -> None:
    answer = steady.post("/v1/models/pair:predict", {"instances": [3e38, -3e38]})
    assert strict_json(answer.body) == {"predictions": [{"x": None, "positive": True}, {"x": None, "positive": False}]}
