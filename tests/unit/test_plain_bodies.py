"""What is read as one array is what the general parser reads of each line, or session; the rest is left to that."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carryover.api.inbound import Inbound
from carryover.api.json import parse
from carryover.api.names import checked
from carryover.api.v1.instances import instances, instances_of_lines, instances_of_sessions, read_instances
from carryover.api.v1.schemas import Line, Predict, PredictMany
from carryover.errors import InvalidInputError
from carryover.runtime.datatypes import Array, Datatype
from carryover.runtime.manifest import TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # as the service does

GENERAL = "carryover.api.v1.instances.read"
"""What reads a body that is not plain."""
SPEC = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 1, 2), batch_dim=1)
NUMBERS = st.integers(-9, 9) | st.floats(-10, 10, width=32) | st.sampled_from((2**70, 1e39, True, None, "1"))
ROWS = st.lists(st.lists(NUMBERS, min_size=1, max_size=3) | NUMBERS, max_size=3)
GOOD = st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=1, max_size=3)
ODD = st.sampled_from(
    (
        b'{"instances": [[1, 2]', b"[3, 4]]}", b'{"instances": [[1, 2]]}, {"instances": [[3, 4]]}', b"{}", b"[[1, 2]]",
        b'{"instances": [[1, 2]], "instances": [[3, 4]]}', b' { "instances" :\t[[1,2]] }\r',
        b'{"instances": [[1, 2]]}}', b'{"instances": }', b'{"instances": [{"x": [1, 2]}]}',
        b'{"instances": [[01, 2]]}', b'{"instances": [[-0, 1e400]]}',
        b'{"instances": [[1, 2]], "idempotency_key": "a"}', b'{"instances": [["1", 2]]}', b"\xff", b'{"instances": 1}',
    )
)  # fmt: skip


def line(values: object) -> bytes:
    return json.dumps({"instances": values}).encode()


def outcome(work: Callable[[], dict[str, Array]]) -> Array | str:
    try:
        return work()["x"]
    except InvalidInputError as error:
        return str(error)


@settings(max_examples=600)
@given(body=GOOD.map(line) | ODD | ROWS.map(line), datatype=st.sampled_from((*Datatype,)))
@example(body=line([[1.5, 2]]), datatype=Datatype.INT64)
@example(body=line([[2**63, 2]]), datatype=Datatype.INT64)
@example(body=line([[70000, 2]]), datatype=Datatype.FP16)
@example(body=line([1, 2]), datatype=Datatype.FP32)
def test_a_body_is_what_the_general_parser_makes_of_it(body: bytes, datatype: Datatype) -> None:
    specs = [SPEC.changed(datatype=datatype)]
    inbound = Inbound("POST", "/", "", {}, {}, len(body))
    inbound.body = body
    found = outcome(lambda: read_instances(specs, inbound))
    expected = outcome(lambda: instances(specs, parse(Predict, body).instances))
    if isinstance(found, str) or isinstance(expected, str):
        assert found == expected
    else:
        same(found, expected)


@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.INT64])
def test_a_plain_body_is_taken(datatype: Datatype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(GENERAL)
    inbound = Inbound("POST", "/", "", {}, {}, 100)
    inbound.body = b' {"instances": [[1, -2], [3, 4]]}\n'
    same(
        read_instances([SPEC.changed(datatype=datatype)], inbound)["x"], np.array([[[1, -2]], [[3, 4]]], datatype.numpy)
    )


@settings(max_examples=300)
@given(lines=st.lists(GOOD.map(line) | ODD | ROWS.map(line), min_size=1, max_size=6))
@example(lines=[b'{"instances": [[1, 2]', b"[3, 4]]}", b'{"instances": [[1, 2]]}, {"instances": [[3, 4]]}'])
def test_lines_are_what_each_is_alone(lines: Sequence[bytes]) -> None:
    found = instances_of_lines([SPEC], lines)
    if found is not None:
        each = [instances([SPEC], parse(Line, one).instances)["x"] for one in lines]
        same(found[0]["x"], np.concatenate(each))
        assert found[1] == list(map(len, each))


@given(values=st.lists(GOOD, min_size=1, max_size=6))
def test_plain_lines_are_taken(values: list[list[list[int]]]) -> None:
    found = instances_of_lines([SPEC], list(map(line, values)))
    assert found is not None
    assert found[1] == list(map(len, values))


def test_as_many_rows_are_taken_as_a_forward_may_have() -> None:
    assert instances_of_lines([SPEC], [line([[1, 2]])] * 64) is not None
    assert instances_of_lines([SPEC], [line([[1, 2]])] * 65) is None


NAMES = st.text("ab.~", min_size=1, max_size=3) | st.sampled_from(('"', "a/b", "", "ü", "a" * 128, "a" * 129, "{"))


@settings(max_examples=300)
@given(given_=st.dictionaries(NAMES, GOOD | ROWS | st.none(), max_size=4), odd=st.sampled_from((b"", b"}", b" ", b",")))
def test_sessions_are_what_each_is_alone(given_: dict[str, object], odd: bytes) -> None:
    body = json.dumps({"sessions": given_}).encode() + odd
    found = instances_of_sessions([SPEC], body)
    if found is not None:
        sessions = parse(PredictMany, body).sessions
        assert found[0] == list(map(checked, sessions))
        same(found[1]["x"], np.concatenate([instances([SPEC], values)["x"] for values in sessions.values()]))


def test_plain_sessions_are_taken() -> None:
    body = b'{"sessions": {"a": [[1, 2]], "b.": [[3, 4e0]]}}'
    found = instances_of_sessions([SPEC], body)
    assert found is not None
    assert found[0] == ["a", "b."]
    same(found[1]["x"], np.array([[[1, 2]], [[3, 4]]], np.float32))


def test_a_name_given_twice_has_its_last_instances() -> None:
    found = instances_of_sessions([SPEC], b'{"sessions": {"a": [[1, 2]], "b": [[3, 4]], "a": [[5, 6]]}}')
    assert found is not None
    assert found[0] == ["a", "b"]
    same(found[1]["x"], np.array([[[5, 6]], [[3, 4]]], np.float32))


def same(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
