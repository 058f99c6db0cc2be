"""The states of several sessions, joined for one forward and split again."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carryover.runtime.datatypes import Datatype
from carryover.runtime.layout import Contents, Layout, StateBuffer

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[StateBuffer], int]:
    """Some state buffers, and how many sessions are batched."""
    buffers = []
    for index in range(draw(st.integers(1, 4))):
        shape = draw(shapes)
        dim = draw(st.integers(0, len(shape) - 1)) if shape else None
        held = Contents(draw(st.sampled_from(list(Datatype))), shape)
        buffers.append(StateBuffer(f"buffer{index}", held, dim))
    alone = any(buffer.batch_dim is None for buffer in buffers)
    return buffers, 1 if alone else draw(st.integers(1, 5))


def random_tensor(buffer: StateBuffer, count: int, seed: int) -> torch.Tensor:
    """One buffer of several sessions, batched along its batch dim."""
    assert buffer.registered is not None
    shape = list(buffer.registered.shape)
    if buffer.batch_dim is not None:
        shape[buffer.batch_dim] *= count
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 2, shape, generator=generator)
    if buffer.registered.datatype is not Datatype.BOOL:
        numbers = torch.randint(0, 100, shape, generator=generator)
    return numbers.to(buffer.registered.datatype.torch)


@given(layout=layouts(), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=200)
def test_states_that_are_parted_and_joined_are_the_same(layout: tuple[list[StateBuffer], int], seed: int) -> None:
    buffers, count = layout
    tensors = [random_tensor(buffer, count, seed + i) for i, buffer in enumerate(buffers)]
    whole = Layout(buffers)
    states, finite = whole.split(tensors, count)
    assert finite
    assert [len(state) for state in states] == [whole.nbytes] * count
    joined = whole.join(states)
    assert_same(joined, tensors)
    assert whole.split(joined, count)[0] == states
    for session, state in enumerate(states):
        assert_same(
            whole.join([state]), [slice_of(t, b, session, count) for t, b in zip(tensors, buffers, strict=True)]
        )
    assert_same(whole.join([b"".join(states)], count), tensors)
    backwards = whole.join(states[::-1])
    assert whole.split(backwards, count)[0] == states[::-1]


def slice_of(tensor: torch.Tensor, buffer: StateBuffer, session: int, count: int) -> torch.Tensor:
    return tensor if buffer.batch_dim is None else tensor.chunk(count, buffer.batch_dim)[session]


def assert_same(some: Sequence[torch.Tensor | None], others: Sequence[torch.Tensor]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one is not None
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@given(
    datatype=st.sampled_from(["FP64", "FP32", "FP16", "BF16"]),
    place=st.integers(0, 5),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf")]),
)
@settings(deadline=None)
def test_a_state_that_is_not_finite_is_seen(datatype: str, place: int, value: float) -> None:
    kind = Datatype[datatype]
    layout = Layout(
        [StateBuffer("a", Contents(kind, (2, 3)), None), StateBuffer("b", Contents(Datatype.INT8, (2,)), None)]
    )
    good = [torch.ones(2, 3, dtype=kind.torch), torch.zeros(2, dtype=torch.int8)]
    bad = [good[0].clone(), good[1]]
    bad[0].view(-1)[place] = value
    (before,), finite = layout.split(good, 1)
    assert finite
    (after,), finite = layout.split(bad, 1)
    assert not finite
    assert layout.non_finite(before, after) == "a"
    assert layout.non_finite(after, after) is None


@given(layout=layouts(), seed=st.integers(0, 2**32), grown=st.booleans(), data=st.data())
@settings(deadline=None, max_examples=200)
def test_a_state_that_is_cut_short_is_not_complete(
    layout: tuple[list[StateBuffer], int], seed: int, grown: bool, data: st.DataObject
) -> None:
    buffers, _ = layout
    tensors = [random_tensor(buffer, 1, seed + i) for i, buffer in enumerate(buffers)]
    if grown:
        tensors[-1] = torch.cat([tensors[-1][None]] * 2)
    whole = Layout([StateBuffer(buffer.name, buffer.registered, None) for buffer in buffers])
    (state,), _ = whole.split(tensors, 1)
    assert whole.complete(state)
    cut = state[: data.draw(st.integers(0, len(state) - 1))]
    # Zeros that are cut to a few bytes, of a BOOL buffer, may be a table as well: that can be read.
    if whole.complete(cut):
        whole.join([cut])


@pytest.mark.parametrize("shape", [(2, 3), (4, 3)], ids=["as-registered", "grown"])
def test_no_cut_of_a_state_is_complete(shape: tuple[int, int]) -> None:
    whole = Layout([StateBuffer("buffer", Contents(Datatype.FP32, (2, 3)), None)])
    (state,), _ = whole.split([torch.zeros(shape)], 1)
    complete = [length for length in range(len(state) + 1) if whole.complete(state[:length])]
    # A buffer that has grown and is cut to the length that it had at first is not distinguished from one that has not.
    assert set(complete) - {whole.nbytes} == {len(state)} - {whole.nbytes}


def test_states_that_have_grown_are_not_finite_together() -> None:
    layout = Layout([StateBuffer("a", Contents(Datatype.FP32, (1, 2)), 0)])
    (before,), _ = layout.split([torch.zeros(1, 2)], 1)
    after, finite = layout.split([torch.full((2, 2, 2), float("nan")).flatten(0, 1)], 1)
    assert not finite
    assert layout.non_finite(before * 2, after[0] * 2, 2) == "a"
