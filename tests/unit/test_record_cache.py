"""What a worker keeps of the records that it has committed: a bounded number of bytes, those used last."""

from dataclasses import dataclass

from carryover.engine.record_cache import DOUBTS, MOST_BYTES, STEADY, RecordCache
from carryover.store import Record


@dataclass
class Holder:
    key: str
    after: Record | None
    steady: int = 0


def record(size: int = 100) -> Record:
    made = Record.new(b"f" * 8, b"l" * 8, 1, bytes(size), 60)
    made.data()
    return made


def commit(cache: RecordCache, key: str, size: int = 100) -> None:
    """A step of a session that is read, and was left by this worker."""
    after = record(size)
    holder = Holder(key, after)
    cache.compare(holder, after)
    cache.keep([holder])


def steady(cache: RecordCache, key: str, size: int = 100) -> None:
    """Steps until the session is served."""
    holder = Holder(key, record(size))
    cache.keep([holder])
    for _ in range(STEADY):
        cache.compare(holder, holder.after)
        cache.keep([holder])


def step(cache: RecordCache, key: str) -> None:
    """A step of a session that is read, and found as it was left."""
    holder = Holder(key, None)
    holder.after = cache.take(holder)
    assert holder.after is not None
    cache.keep([holder])
    cache.compare(holder, holder.after)
    cache.keep([holder])


def test_a_session_is_served_after_so_many_steps_that_found_it_as_it_was_left() -> None:
    cache, holder = RecordCache(), Holder("a", record())
    cache.keep([holder])
    for _ in range(STEADY):
        assert not cache.serves("a")
        cache.compare(holder, holder.after)
        cache.keep([holder])
    assert cache.serves("a")
    assert cache.take(holder) is holder.after
    assert not cache.serves("a")


def test_one_that_another_worker_has_stepped_starts_again() -> None:
    cache = RecordCache()
    steady(cache, "a")
    holder = Holder("a", record())
    cache.compare(holder, holder.after)
    assert holder.steady == 0
    assert not cache.serves("a")


def test_after_one_that_was_out_of_date_sessions_are_read_until_enough_were_as_they_were_left() -> None:
    cache = RecordCache()
    for key in "ab":
        steady(cache, key)
    cache.doubt()
    for _ in range(DOUBTS - 1):
        commit(cache, "other")
    cache.keep([Holder("moved", record())])
    cache.compare(Holder("moved", None), record())
    for _ in range(DOUBTS):
        assert not cache.serves("a")
        step(cache, "b")
    assert cache.serves("a")


def test_those_used_longest_ago_make_room() -> None:
    cache, size = RecordCache(), MOST_BYTES // 8
    for key in "abcdefgh":
        steady(cache, key, size)
    assert "".join(key for key in "abcdefgh" if cache.serves(key)) == "bcdefgh"
    steady(cache, "b", size)
    commit(cache, "i", size)
    assert "".join(key for key in "abcdefghi" if cache.serves(key)) == "bdefgh"


def test_what_is_larger_than_all_may_be_is_not_kept_and_takes_no_room() -> None:
    cache = RecordCache()
    steady(cache, "a")
    commit(cache, "large", MOST_BYTES)
    assert cache.serves("a")
    assert len(cache) == 1


def test_the_bytes_of_what_is_replaced_or_taken_are_given_back() -> None:
    cache = RecordCache()
    for _ in range(100):
        cache.keep([Holder("a", record(MOST_BYTES // 4))])
    steady(cache, "b", MOST_BYTES // 2)
    assert len(cache) == 2
    for _ in range(100):
        cache.take(Holder("a", None))
        commit(cache, "a", MOST_BYTES // 4)
    assert cache.serves("b")
