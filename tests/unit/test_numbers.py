"""What is read straight into arrays is what the general parser reads; what that would reject is left to it."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carryover.api import numbers
from carryover.api.arrays import array
from carryover.api.json import parse
from carryover.api.v1.schemas import Predict
from carryover.api.v2.schemas import Infer
from carryover.errors import InvalidInputError
from carryover.runtime.datatypes import Datatype

LEAVES = st.one_of(
    st.integers(-300, 300), st.floats(width=32), st.integers(-(2**70), 2**70), st.sampled_from((True, None, "[", "1"))
)
NESTS = st.recursive(st.lists(st.integers(0, 9) | LEAVES, max_size=4), lambda nest: st.lists(nest, max_size=4))


@st.composite
def rectangles(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    count = int(np.prod(shape))
    leaves = draw(st.lists(st.integers(0, 255) | st.floats(-1e5, 1e5), min_size=count, max_size=count))
    return np.array(leaves, object).reshape(shape).tolist()


def generally(data: bytes, datatype: Datatype) -> Any:
    try:
        return array(datatype, parse(Predict, data).instances, "instances")
    except InvalidInputError:
        return None


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # as the service does
@settings(max_examples=300)
@given(values=NESTS | rectangles(), datatype=st.sampled_from(Datatype))
@example(values=[[1, 2], [3]], datatype=Datatype.FP32)
@example(values=[[1, 2], [3], [4, 5, 6]], datatype=Datatype.FP32)
@example(values=[[1, [2, 3]], [[], 4]], datatype=Datatype.FP32)
@example(values=[[], [1]], datatype=Datatype.FP32)
@example(values=[[1, [2]], 3, [4, [5]]], datatype=Datatype.INT64)
def test_a_rectangle_is_what_the_general_parser_reads(values: Any, datatype: Datatype) -> None:
    data = json.dumps({"instances": values}).encode()
    found, expected = numbers.rectangle(data, "instances", datatype), generally(data, datatype)
    if found is not None:
        assert expected is not None
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@given(values=rectangles())
def test_plain_rectangles_are_taken(values: Any) -> None:
    data = json.dumps({"instances": values}).encode()
    expected = generally(data, Datatype.FP64)
    found = numbers.rectangle(data, "instances", Datatype.FP64)
    assert found is not None
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[1]", b'{"instances":1}', b'{"instances":[1],"instances":[2]}', b'{"instances":[1],"x":[2]}',
        b'{"instances":[1,]}', b'{"instances":[1]}x', b'\xef\xbb\xbf{"instances":[1]}', b'{"instances":[NaN]}',
        b'{"instances":[1e400]}', b'{"instances":[' + b"[" * 2000, b'{"instances":["\xff"]}', b'{"instances":[01]}',
    ],
)  # fmt: skip
def test_all_else_is_left_to_the_general_parser(data: bytes) -> None:
    assert numbers.rectangle(data, "instances", Datatype.FP32) is None
    assert numbers.tensors(data) is None


def test_a_huge_shape_is_not_believed() -> None:
    row = b"[" + b"0," * 9999 + b"0]"
    data = b'{"instances":[[' + row + b"]" + b",[0]" * 99_999 + b"]}"
    assert numbers.rectangle(data, "instances", Datatype.FP32) is None


TENSOR = {"name": "x", "datatype": "FP32", "shape": [3], "data": [1, 2.5, -3]}


def test_tensors_are_taken_out_of_a_request() -> None:
    request = {
        "id": "a[b",
        "inputs": [TENSOR, {"name": "y", "shape": [1], "datatype": "INT8", "parameters": {"binary_data_size": 1}}],
        "outputs": [{"name": "z", "parameters": {"classification": 3}}],
        "parameters": {"sequence_id": 2**64 - 1, "x": [[1]]},
    }
    data = json.dumps(request).encode()
    taken = numbers.tensors(data)
    assert taken is not None
    rest, found = taken
    assert {position: values.tolist() for position, values in found.items()} == {0: [1.0, 2.5, -3.0]}
    body, expected = parse(Infer, rest), parse(Infer, data)
    assert body.inputs[0].data == [0]
    body.inputs[0].data = expected.inputs[0].data
    assert body == expected


@pytest.mark.parametrize(
    "change",
    [
        {"data": [[1, 2], []]}, {"data": [[1], [2], [3]]}, {"data": [1, "2"]}, {"data": [1, None]}, {"data": 1},
        {"data": [1e39]}, {"datatype": "INT8", "data": [200]}, {"datatype": "INT8", "data": [1.5]},
        {"datatype": "BOOL", "data": [True]}, {"datatype": "BF16"}, {"datatype": "?"}, {"datatype": ["FP32"]},
    ],
    ids=str,
)  # fmt: skip
def test_tensors_that_are_not_plain_are_left_to_the_general_parser(change: dict[str, Any]) -> None:
    assert numbers.tensors(json.dumps({"inputs": [TENSOR | change]}).encode()) is None
