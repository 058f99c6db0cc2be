"""Sessions as columns: inputs, outputs and records are those of the sessions one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carryover.runtime.columns import batched, unbatched
from carryover.runtime.datatypes import Datatype
from carryover.runtime.manifest import TensorSpec
from carryover.store import Record, Records
from carryover.store.record import GRACE, HEADER_BYTES, parse, tombstone

FINGERPRINT, LAYOUT = b"fingerpr", b"layout__"


@given(sessions=st.integers(1, 4), count=st.integers(1, 3), axes=st.permutations(range(3)), data=st.data())
def test_a_batch_is_of_the_sessions_inputs(sessions: int, count: int, axes: list[int], data: st.DataObject) -> None:
    axis = axes[0]
    dim = data.draw(st.sampled_from((axis, axes[1])))
    shape = [2, 2, 2]
    shape[dim], shape[axis] = 1, -1
    spec = TensorSpec(name="x", datatype=Datatype.INT64, shape=tuple(shape), batch_dim=dim)
    one = [count if size == -1 else size for size in shape]
    each = np.arange(sessions * np.prod(one)).reshape(sessions, *one)
    joined = np.concatenate(list(each), axis=axis)
    batch = batched(spec, joined, sessions)
    np.testing.assert_array_equal(batch, np.concatenate(list(each), axis=dim))
    np.testing.assert_array_equal(unbatched(spec, batch, sessions), joined)


def record(step: int, ttl: int = 60, fingerprint: bytes = FINGERPRINT, state: bytes = b"state") -> bytes:
    made = Record.new(fingerprint, LAYOUT, 7, state, ttl)
    made.step = step
    return made.data()


def test_records_go_on_as_each_does() -> None:
    before = [record(4, 60, state=b"one"), record(9, 3600, state=b"two")]
    found = Records.of(before)
    assert found is not None
    assert (len(found), found.states(), found.state_bytes, found.fingerprint) == (2, b"onetwo", 3, FINGERPRINT)
    steps, written = found.advanced(8, b"ONETWO")
    assert steps == [5, 10]
    for old, (header, new, expiry), step, state in zip(before, written, steps, (b"ONE", b"TWO"), strict=True):
        was, is_now = parse(old), parse(new)
        assert header == was.header == old[:HEADER_BYTES]
        assert (is_now.step, is_now.state, is_now.version) == (step, state, 8)
        assert expiry == was.ttl * 1000 + GRACE
        for name in ("created", "ttl", "fingerprint", "layout", "kind", "edition"):
            assert getattr(is_now, name) == getattr(was, name)
    nonces = {new[1:9] for _, new, _ in written} | {old[1:9] for old in before}
    assert len(nonces) == 4


def test_records_without_a_state_go_on() -> None:
    found = Records.of([record(1, state=b""), record(2, state=b"")])
    assert found is not None
    assert (found.states(), found.state_bytes) == (b"", 0)
    steps, written = found.advanced(8, b"")
    assert steps == [2, 3]
    assert [(parse(new).step, parse(new).state) for _, new, _ in written] == [(2, b""), (3, b"")]


OTHERS = {
    "none": None,
    "tombstone": tombstone(),
    "empty": b"",
    "short": b"\3",
    "version": record(1, fingerprint=b"another_"),
    "state": record(1, state=b"longer"),
    "expired": b"\4" + record(1)[1:],
    "earlier": b"\1" + record(1)[1:],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_records_are_left_to_the_general_case(other: bytes | None) -> None:
    assert Records.of([record(1), record(2)]) is not None
    assert Records.of([record(1), other]) is None
