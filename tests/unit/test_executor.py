"""A forward runs on the event loop only where it is known to be short."""

import threading
import time
from collections.abc import Sequence

import gevent
import numpy as np
import pytest

from carryover.engine.executor import Executor
from carryover.engine.limits import Limits
from carryover.errors import CarryoverError
from carryover.runtime.version import Call, Invocation, Result
from carryover.telemetry.counters import Statistics

LIMITS = Limits(
    batch=8, queue=8, ttl=60, state_bytes=2**20, timeout=60.0, elements=200_000, keyed_elements=200_000, sessions=8
)
SHORT, LONG, VERY_LONG = 0.0, 0.01, 0.06


class Version:
    """What a lane needs of a version: it is busy for as long as the test says, and notes where it ran."""

    name, version, on_cpu = "timed", "1", True

    def __init__(self) -> None:
        self.seconds = 0.0
        self.threads: list[int] = []

    def run(self, calls: Sequence[Invocation]) -> list[Result]:
        self.threads.append(threading.get_ident())
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return [Result(dict(call.inputs), b"", None) for call in calls]


class Lane:
    """Runs calls of a version, and says of each whether it was on the event loop."""

    def __init__(self) -> None:
        self.version = Version()
        self._executor = Executor(Statistics(8), LIMITS)

    def in_place(self, size: int, seconds: float, state: int = 0) -> bool:
        self.version.seconds = seconds
        call = Call({"x": np.zeros(size, np.float32)}, bytes(state))
        results = self._executor.run(self.version, [call], self._executor.deadline())  # type: ignore[arg-type]
        assert not any(isinstance(result, CarryoverError) for result in results)
        return self.version.threads[-1] == threading.get_ident()


@pytest.fixture
def lane() -> Lane:
    return Lane()


def test_the_first_of_each_size_runs_in_a_thread_and_then_short_ones_in_place(lane: Lane) -> None:
    for size in (8, 64, 200_000):
        assert not lane.in_place(size, SHORT)
        assert lane.in_place(size, SHORT)


def test_a_size_never_seen_runs_in_place_only_below_one_that_was_short(lane: Lane) -> None:
    lane.in_place(1000, SHORT)
    assert lane.in_place(10, SHORT)
    assert not lane.in_place(100_000, SHORT)
    lane = Lane()
    lane.in_place(1000, LONG)
    assert not lane.in_place(10, SHORT)


def test_a_state_that_grows_is_another_size(lane: Lane) -> None:
    lane.in_place(8, SHORT, state=16)
    assert lane.in_place(8, SHORT, state=16)
    assert not lane.in_place(8, SHORT, state=100_000)


def test_a_long_size_stays_in_a_thread_and_shorter_ones_in_place(lane: Lane) -> None:
    lane.in_place(8, SHORT)
    for _ in range(3):
        assert not lane.in_place(1000, LONG)
        assert lane.in_place(8, SHORT)


def test_a_first_forward_that_is_slower_than_the_rest_is_soon_forgotten(lane: Lane) -> None:
    assert not lane.in_place(8, LONG)
    assert any(lane.in_place(8, SHORT) for _ in range(5))
    lane = Lane()
    assert not lane.in_place(8, VERY_LONG)
    assert any(lane.in_place(8, SHORT) for _ in range(100))


def test_where_the_time_depends_on_values_the_event_loop_is_held_once_at_most(lane: Lane) -> None:
    lane.in_place(8, VERY_LONG)
    for _ in range(10):
        assert not lane.in_place(64, SHORT)
    assert not lane.in_place(64, VERY_LONG)

    lane = Lane()
    lane.in_place(8, SHORT)
    assert lane.in_place(8, VERY_LONG)
    for _ in range(200):
        assert not lane.in_place(8, SHORT)


def test_many_short_forwards_in_a_row_let_others_run(lane: Lane) -> None:
    lane.in_place(8, SHORT)
    turns: list[int] = []

    def others() -> None:
        while True:
            turns.append(len(lane.version.threads))
            gevent.sleep(0.001)  # woken by the event loop, as those are who wait for a socket

    other = gevent.spawn(others)
    try:
        for _ in range(20):
            assert lane.in_place(8, LONG / 4)
    finally:
        other.kill()
    assert len(set(turns)) >= 2
