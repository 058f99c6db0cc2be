"""Running forwards: short ones in place, long ones in a native thread, and a failing one without its neighbours."""

import logging
import sys
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from gevent.lock import Semaphore

from carryover.engine.limits import Limits
from carryover.errors import CarryoverError, ForwardTimeoutError, ModelFailedError
from carryover.runtime.version import Invocation, ModelVersion, Result
from carryover.telemetry.counters import Counters, Statistics
from carryover.threads import pause, run_in_thread

LONG = 0.005
"""Seconds that a forward may be expected to hold up the worker; one that takes longer runs in a native thread."""
YIELD = 0.02
"""Seconds of forwards, one after another, after which others run."""
HELD = 0.05
"""Seconds that no forward may hold up the worker."""
_WARY = 64
"""How many forwards in a row must take less than `HELD`, after one that took more, to run in place again."""
_ALWAYS = sys.maxsize

_Size = tuple[int, int]
"""The number of elements of the inputs, and of bytes of the states; their bit lengths, where it is a magnitude."""

log = logging.getLogger(__name__)


class Executor:
    """Runs the forwards of all models, one at a time for each version."""

    def __init__(self, statistics: Statistics, limits: Limits) -> None:
        self._statistics = statistics
        self._limits = limits
        self._lanes: WeakKeyDictionary[ModelVersion, _Lane] = WeakKeyDictionary()

    def deadline(self) -> float:
        """Return until when forwards may run that are due now, in seconds of `time.perf_counter`."""
        return time.perf_counter() + self._limits.timeout

    def run(self, version: ModelVersion, calls: Sequence[Invocation], deadline: float) -> list[Result | CarryoverError]:
        """Run calls of one group together; where that fails, each alone, so that only the guilty one gets the error.

        What has no result at the deadline gets `ForwardTimeoutError`, and its result is discarded. What has too many
        elements gets `LimitExceededError`; calls that have too many together do not share a forward.
        """
        size = _size(calls)
        if size[0] > self._limits.elements:
            if len(calls) == 1:
                return [self._limits.too_many_elements("inputs", size[0])]
            return [result for call in calls for result in self.run(version, [call], deadline)]
        lane = self._lanes.get(version)
        if lane is None:
            lane = self._lanes[version] = _Lane(version, self._statistics.of(version.name, version.version))
        try:
            return self._bounded(lane.run(size, calls, deadline))
        except TimeoutError:
            error = ForwardTimeoutError(version.name, self._limits.timeout)
            log.warning("%s", error)
            return [error] * len(calls)
        except ModelFailedError as error:
            if len(calls) == 1:
                log.exception("model %s version %s", version.name, version.version)
                return [error]
        return [result for call in calls for result in self.run(version, [call], deadline)]

    def _bounded(self, results: Sequence[Result]) -> list[Result | CarryoverError]:
        """Put an error in the place of each result whose outputs are too large."""
        bounded: list[Result | CarryoverError] = []
        for result in results:
            count = 0
            for array in result.outputs.values():
                count += array.size
            fits = count <= self._limits.elements
            bounded.append(result if fits else self._limits.too_many_elements("outputs", count))
        return bounded


class _Lane:
    """One version's turn-taking, and what its forwards have cost so far.

    A forward runs in place where one of its size, or of a larger one, was short before. All others run in a native
    thread: the first of each size, and every one that is known to be long.
    """

    def __init__(self, version: ModelVersion, counters: Counters) -> None:
        self._version = version
        self._counters = counters
        self._turn = Semaphore(1)
        # What this thread itself is busy: to wait for a CPU, or for the GIL, makes no forward a long one. A GPU's work
        # is waited for.
        self._clock = time.thread_time if version.on_cpu else time.perf_counter
        # What forwards in place have taken since the last one that let others run.
        self._held = 0.0
        self._seconds: dict[_Size, float] = {}
        # The smallest size that was very long, and how many short ones it takes until in place is safe again.
        self._wary_from: _Size | None = None
        self._wary = 0

    def run(self, size: _Size, calls: Sequence[Invocation], deadline: float) -> list[Result]:
        turn = self._turn
        if not turn.acquire(blocking=False) and not turn.acquire(timeout=_until(deadline)):
            raise TimeoutError
        magnitude = size[0].bit_length(), size[1].bit_length()
        if self._is_short(magnitude):
            try:
                return self._timed(magnitude, calls, in_place=True)
            finally:
                turn.release()
                if self._held > YIELD:
                    self._held = 0.0
                    pause()
        # torch releases the GIL in its kernels: the worker goes on accepting meanwhile. The turn ends with the forward,
        # however long the caller waits for it.
        return run_in_thread(lambda: self._timed(magnitude, calls, in_place=False), _until(deadline), self._end_turn)

    def _end_turn(self) -> None:
        self._turn.release()

    def _timed(self, size: _Size, calls: Sequence[Invocation], *, in_place: bool) -> list[Result]:
        start, busy = time.perf_counter_ns(), self._clock()
        try:
            results = self._version.run(calls)
        finally:
            self._learn(size, self._clock() - busy, in_place=in_place)
        self._counters.ran(len(calls), time.perf_counter_ns() - start)
        return results

    def _learn(self, size: _Size, seconds: float, *, in_place: bool) -> None:
        """Note what a forward took: a slow one counts at once, a fast one by half."""
        if in_place:
            self._held += seconds
        before = self._seconds.get(size, seconds)
        self._seconds[size] = seconds if seconds > before else (before + seconds) / 2
        if seconds > HELD:
            # In place although a short one was expected: its time depends on more than its size.
            self._wary = _ALWAYS if in_place else max(self._wary, _WARY)
            wary = self._wary_from or size
            self._wary_from = min(size[0], wary[0]), min(size[1], wary[1])
        elif self._wary_from is not None and _covers(size, self._wary_from):
            self._wary -= 1
            if self._wary <= 0:
                self._wary_from = None

    def _is_short(self, size: _Size) -> bool:
        if self._wary_from is not None and _covers(size, self._wary_from):
            return False
        seconds = self._seconds.get(size)
        if seconds is not None:
            return seconds < LONG
        return any(_covers(seen, size) and took < LONG for seen, took in self._seconds.items())


def _until(deadline: float) -> float:
    """How many seconds are left, at least none."""
    return max(0.0, deadline - time.perf_counter())


def _size(calls: Sequence[Invocation]) -> _Size:
    """How many elements the inputs of a batch have, and how many bytes its states."""
    elements = state = 0
    for call in calls:
        state += len(call.state)
        for array in call.inputs.values():
            elements += array.size
    return elements, state


def _covers(larger: _Size, size: _Size) -> bool:
    return larger[0] >= size[0] and larger[1] >= size[1]
