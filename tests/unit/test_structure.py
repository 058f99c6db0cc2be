"""Nested values are taken apart into tensors and a structure, and come back as they were."""

import math
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from carryover.runtime.structure import ABSENT, Kind, UnsupportedValueError, flatten, pick, unflatten

Pair = namedtuple("Pair", ("first", "second"))  # noqa: PYI024 - both kinds are passed around


class Cell(NamedTuple):
    h: Any
    c: Any


@dataclass
class Cache:
    keys: Any
    length: Any = 0
    label: str = "cache"


@dataclass(frozen=True, slots=True)
class Frozen:
    value: Any
    scale: Any = 1.0


class Plain:
    def __init__(self, layers: Any) -> None:
        self.layers = layers
        self.seen = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and same(vars(self), vars(other))

    __hash__ = None  # type: ignore[assignment]


class Output(OrderedDict[str, Any]):
    """As results of large libraries are: a dict whose keys are attributes too."""

    def __init__(self, **given: Any) -> None:
        super().__init__(given)
        self.__dict__.update(given)


def tensors() -> st.SearchStrategy[Tensor]:
    shapes = st.lists(st.integers(0, 3), max_size=3)
    dtypes = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.complex64])
    return st.builds(lambda shape, dtype: torch.randn(shape).to(dtype), shapes, dtypes)


leaves = st.one_of(
    tensors(), st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=3)
)
keys = st.text("abc", min_size=1, max_size=2)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(lambda held: deque(held, maxlen=5)),
        st.dictionaries(keys | st.integers(0, 3), inner, max_size=3),
        st.dictionaries(keys, inner, max_size=2).map(OrderedDict),
        st.builds(Cell, inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(Cache, inner, inner),
        st.builds(Frozen, inner),
        st.builds(Plain, inner),
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:  # noqa: PLR0911 - a table of types
    """Whether two values are equal, tensor by tensor, and of the same classes."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype is other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list, deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Frozen):
        return same((one.value, one.scale), (other.value, other.scale))
    return same(vars(one), vars(other)) if hasattr(one, "__dict__") and not isinstance(one, type) else one == other


@given(values)
def test_what_is_taken_apart_comes_back(value: Any) -> None:
    parts, structure = flatten(value)
    back = unflatten(structure, iter([part.tensor for part in parts]))
    assert same(value, back)
    again, second = flatten(back)
    assert second == structure
    assert hash(second) == hash(structure)
    assert [part.path for part in again] == [part.path for part in parts]


@given(values)
def test_containers_are_fresh(value: Any) -> None:
    parts, structure = flatten(value)
    one, other = (unflatten(structure, iter([part.tensor for part in parts])) for _ in range(2))
    if isinstance(value, (list, dict, deque, Plain, Cache)):
        assert one is not other
        assert one is not value


@given(values, values)
def test_values_of_one_structure_differ_in_their_tensors_only(value: Any, other: Any) -> None:
    (parts, structure), (others, second) = flatten(value), flatten(other)
    if structure == second:
        assert [(part.path, part.kind) for part in parts] == [(part.path, part.kind) for part in others]
        assert same(unflatten(structure, iter([part.tensor for part in others])), other)


def test_the_parts_have_paths() -> None:
    parts, _ = flatten({"layers": [Cell(torch.zeros(1), 2), None], "at": 3})
    found = [(".".join(part.path), part.kind) for part in parts]
    assert found == [("layers.0.h", Kind.TENSOR), ("layers.0.c", Kind.INT), ("at", Kind.INT)]


def test_a_structure_tells_none_absent_and_a_tensor_apart() -> None:
    values: list[Any] = [None, ABSENT, torch.zeros(1), 0.0, 0, False, [], ()]
    assert len({flatten(value)[1] for value in values}) == len(values)


def test_subclasses_of_containers_come_back() -> None:
    counts = defaultdict(list, {"a": [torch.ones(2)]})
    parts, structure = flatten(counts)
    back = unflatten(structure, iter([part.tensor for part in parts]))
    assert back["new"] == []
    output = Output(last=torch.ones(2), cache=(torch.zeros(1),))
    parts, structure = flatten(output)
    assert list(unflatten(structure, iter([part.tensor for part in parts]))) == ["last", "cache"]
    array = np.arange(3)
    parts, structure = flatten(array)
    assert parts[0].tensor.tolist() == [0, 1, 2]
    assert unflatten(structure, iter([parts[0].tensor])).tolist() == [0, 1, 2]


def test_what_cannot_be_stored_is_named() -> None:
    loop: list[Any] = []
    loop.append(loop)
    values: list[Any] = [loop, {1, 2}, (0, {"lock": object()}), (2**70,), [np.array(["a"])], iter(())]
    for value in values:
        with pytest.raises(UnsupportedValueError):
            flatten(value)
    with pytest.raises(UnsupportedValueError, match=r"^1\.lock is a object"):
        flatten((0, {"lock": object()}))


def test_pick_follows_indices_keys_and_attributes() -> None:
    value = ({"state": Cell([1, 2], Cache(5))}, Frozen(3))
    assert pick(value, ()) is value
    assert pick(value, ("0", "state", "h", "1")) == 2
    assert pick(value, ("0", "state", "c", "keys")) == 5
    assert pick(value, ("-1", "value")) == 3
    assert pick({1: "by number"}, ("1",)) == "by number"
    for path in (("2",), ("0", "other"), ("0", "state", "x"), ("1", "0")):
        with pytest.raises(LookupError, match=f"has no '{path[-1]}'"):
            pick(value, path)


def test_fields_are_dataclass_fields() -> None:
    @dataclass
    class Grown:
        items: list[Tensor] = field(default_factory=list)

    grown = Grown()
    _, empty = flatten(grown)
    grown.items.append(torch.ones(1))
    parts, full = flatten(grown)
    assert empty != full
    assert unflatten(full, iter([parts[0].tensor])).items[0].item() == 1
