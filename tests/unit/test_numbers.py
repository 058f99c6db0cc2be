"""What is taken out of a large body is what the general parser reads; all else is left to it."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carryover.api import numbers
from carryover.api.arrays import array
from carryover.api.json import LARGE_BODY, MAX_VALUES, parse
from carryover.api.numbers import Numbers
from carryover.api.v1 import streams
from carryover.api.v1.schemas import Predict
from carryover.api.v2.schemas import Infer
from carryover.errors import BodyTooLargeError, InvalidInputError
from carryover.runtime.datatypes import Datatype

LEAVES = st.one_of(
    st.integers(-300, 300), st.floats(width=32), st.integers(-(2**70), 2**70), st.sampled_from((True, None, "[", "1"))
)
NESTS = st.recursive(st.lists(st.integers(0, 9) | LEAVES, max_size=4), lambda nest: st.lists(nest, max_size=4))
LARGE = " " * LARGE_BODY
"""What makes a body a large one."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even short lists are taken, and cut into pieces."""
    monkeypatch.setattr(numbers, "_LONG", 1)
    monkeypatch.setattr(numbers, "_PIECE", 4)


@st.composite
def rectangles(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    count = int(np.prod(shape))
    leaves = draw(st.lists(st.integers(0, 255) | st.floats(-1e5, 1e5), min_size=count, max_size=count))
    return np.array(leaves, object).reshape(shape).tolist()


def read(values: Any, datatype: Datatype) -> Any:
    """Return the array of values, or what is wrong with them."""
    try:
        return array(datatype, values, "instances", ".x")
    except InvalidInputError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # as the service does
@settings(max_examples=300)
@given(values=NESTS | rectangles(), datatype=st.sampled_from(Datatype))
@example(values=[[1, 2], [3]], datatype=Datatype.FP32)
@example(values=[[1, 2], [3], [4, 5, 6]], datatype=Datatype.FP32)
@example(values=[[1, [2, 3]], [[], 4]], datatype=Datatype.FP32)
@example(values=[[], [1]], datatype=Datatype.FP32)
@example(values=[[1, [2]], 3, [4, [5]]], datatype=Datatype.INT64)
@example(values=[[2**53 + 1, -(2**53)], [3, 4]], datatype=Datatype.INT64)
@example(values=[[127, -128], [3, 0]], datatype=Datatype.INT8)
@example(values=[[127, -129], [3, 0]], datatype=Datatype.INT8)
@example(values=[2**64 - 1, 0], datatype=Datatype.UINT64)
@example(values=[[2**60 + 1, 1.0], [3, 4.5]], datatype=Datatype.INT64)
@example(values=[[1, 2], [3, 70_000]], datatype=Datatype.FP16)
@example(values=[128, 1.5], datatype=Datatype.INT8)
def test_numbers_are_what_the_general_parser_reads_and_rejects(values: Any, datatype: Datatype) -> None:
    data = json.dumps({"instances": values}).encode()
    found, expected = read(restored(data), datatype), read(parse(Predict, data).instances, datatype)
    if isinstance(expected, str):
        assert isinstance(found, str)
        # Of several numbers that do not fit, another one may be named.
        assert found == expected or sum(isinstance(read([leaf], datatype), str) for leaf in leaves(values)) > 1
    else:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def leaves(values: Any) -> list[Any]:
    return [leaf for value in values for leaf in leaves(value)] if isinstance(values, list) else [values]


def restored(data: bytes) -> Any:
    rest, found = numbers.taken(data)
    return numbers.restored(parse(Predict, rest), found).instances


@given(values=rectangles(), indent=st.sampled_from((None, 1)))
def test_plain_rectangles_are_taken(values: Any, indent: int | None) -> None:
    found = restored(json.dumps({"instances": values}, indent=indent).encode())
    assert type(found) is Numbers
    np.testing.assert_array_equal(array(Datatype.FP64, found, ""), values)


@given(values=st.lists(st.fixed_dictionaries({"x": rectangles(), "y": rectangles()}), min_size=1))
def test_those_in_objects_are_taken(values: Any) -> None:
    found = restored(json.dumps({"instances": values}).encode())
    assert [{type(held) for held in each.values()} for each in found] == [{Numbers}] * len(values)
    for each, expected in zip(found, values, strict=True):
        for name in expected:
            np.testing.assert_array_equal(array(Datatype.FP64, each[name], ""), expected[name])


@pytest.mark.parametrize(
    "nest",
    [
        b"1", b"[1,]", b"[,1]", b"[1,,2]", b"[1 2]", b"[1", b"[1]]", b"[[1,2],3]", b"[[1,2],[3]]", b"[1[,2],[3,4]]",
        b"[[1,2]5,[,4]]", b"[[1,],2[3,4]]", b"[[]]", b"[01]", b"[1.]", b"[1e400]", b"[NaN]", b"[-]", b"[1],[2]",
        b"[" * 40 + b"1" + b"]" * 40, b"[[[1],[2]],[[3,4]]]",
    ],
)  # fmt: skip
def test_all_else_is_left_to_the_general_parser(nest: bytes) -> None:
    data = b'{"instances":%b}' % nest
    assert numbers.taken(data) == (data, [])


@pytest.mark.parametrize(
    "data",
    [b'{"id":"[1,2,3]"}', b'{"id":"a:[1,2,3]"}', rb'{"id":"a\":[1,2,3]"}', rb'{"id":"\\\":[1,2,3]"}', b"[1,2,3]", b""],
)
def test_what_is_not_the_value_of_a_field_stays(data: bytes) -> None:
    assert numbers.taken(data) == (data, [])


def test_the_same_shape_may_be_written_in_a_long_and_a_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "_LONG", 20)
    data = b'{"instances":[{"x":[[1,2],[3,4]]},{"x":[[1.5000000,2.5],[3.5,4.5]]},{"x":[[1.5000000,2.5],[3.5]]}]}'
    given = [each["x"] for each in restored(data)]
    assert [type(held) for held in given] == [list, Numbers, list]
    assert array(Datatype.FP32, given[:2], "").tolist() == [[[1, 2], [3, 4]], [[1.5, 2.5], [3.5, 4.5]]]
    with pytest.raises(InvalidInputError, match=r"^instances\[2\]\.x\[1\] has 1 elements where its neighbours have 2"):
        array(Datatype.FP32, given, "instances", ".x")
    with pytest.raises(
        InvalidInputError, match=r"^instances\[1\]\.x has shape \[2, 2\] where its neighbours have \[2\]"
    ):
        array(Datatype.FP32, [[1, 2], given[1]], "instances", ".x")
    with pytest.raises(InvalidInputError, match=r"^instances\[1\]\.x\[0\]\[0\] must be a whole number, not 1\.5$"):
        array(Datatype.INT8, given[:2], "instances", ".x")
    with pytest.raises(InvalidInputError, match=r"^instances\[0\]\.x must be a number, not a list$"):
        array(Datatype.FP32, [given[1], None], "instances", ".x")


def test_tensors_are_taken_out_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [-3, 4]]}
    request = {
        "id": "a[b",
        "inputs": [tensor, {"name": "y", "shape": [1], "datatype": "INT8", "parameters": {"binary_data_size": 1}}],
        "outputs": [{"name": "z", "parameters": {"classification": 3}}],
        "parameters": {"sequence_id": 2**64 - 1, "x": [[1]]},
    }
    monkeypatch.setattr(numbers, "_LONG", 16)  # a shape is shorter
    data = json.dumps(request).encode()
    body, expected = parse(Infer, (data + LARGE.encode())), parse(Infer, data)
    taken: Any = body.inputs[0].data
    assert type(taken) is Numbers
    assert array(Datatype.FP32, taken, "").tolist() == expected.inputs[0].data
    body.inputs[0].data = expected.inputs[0].data
    assert body == expected


def test_a_large_body_has_few_other_values() -> None:
    few, many = (json.dumps({"instances": [{}] * count}).encode() for count in (MAX_VALUES // 2 - 1, MAX_VALUES))
    assert parse(Predict, few).instances[-1] == {}
    with pytest.raises(
        BodyTooLargeError, match=rf"about {2 * MAX_VALUES + 2} fields and values; expected at most {MAX_VALUES}"
    ):
        parse(Predict, many)


def test_a_line_of_too_many_values_does_not_end_its_stream() -> None:
    line = json.dumps({"instances": [{}] * MAX_VALUES}).encode()
    assert isinstance(streams._parsed(line), BodyTooLargeError)  # noqa: SLF001


def test_no_line_and_column_is_said_of_a_text_that_has_changed() -> None:
    taken, whole = b'{"instances":[1,2,3],x}', b'{"instances":"1",x}'
    with pytest.raises(InvalidInputError, match=r"is not JSON: key must be a string$"):
        parse(Predict, taken + LARGE.encode())
    with pytest.raises(InvalidInputError, match=r"is not JSON: key must be a string at line 1 column 18$"):
        parse(Predict, whole + LARGE.encode())


def test_many_errors_of_a_large_body_are_not_listed() -> None:
    fields = json.dumps({str(number): 1 for number in range(LARGE_BODY // 8)}).encode()
    with pytest.raises(
        InvalidInputError, match=r"^the body has 32769 errors, such as unknown fields; its fields are 'inst"
    ):
        parse(Predict, fields)
