"""Running forwards: short ones in place, long ones in a native thread, and a failing one without its neighbours."""

import logging
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from gevent.lock import Semaphore

from carryover.errors import CarryoverError, ModelFailedError
from carryover.runtime.version import Invocation, ModelVersion, Result
from carryover.telemetry.counters import Counters, Statistics
from carryover.threads import run_in_thread

LONG = 0.005
"""Seconds that a forward may hold up the worker; one that takes longer runs in a native thread."""

log = logging.getLogger(__name__)


class Executor:
    """Runs the forwards of all models, one at a time for each version."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._lanes: WeakKeyDictionary[ModelVersion, _Lane] = WeakKeyDictionary()

    def run(self, version: ModelVersion, calls: Sequence[Invocation]) -> list[Result | CarryoverError]:
        """Run calls of one group together; where that fails, each alone, so that only the guilty one gets the error."""
        lane = self._lanes.get(version)
        if lane is None:
            lane = self._lanes[version] = _Lane(version, self._statistics.of(version.name, version.version))
        try:
            return list(lane.run(calls))
        except ModelFailedError as error:
            if len(calls) == 1:
                log.exception("model %s version %s", version.name, version.version)
                return [error]
        return [result for call in calls for result in self.run(version, [call])]


class _Lane:
    """One version's turn-taking, and what its forwards have cost so far."""

    def __init__(self, version: ModelVersion, counters: Counters) -> None:
        self._version = version
        self._counters = counters
        self._turn = Semaphore(1)
        # What this thread itself is busy: to wait for a CPU, or for the GIL, makes no forward a long one. A GPU's work
        # is waited for.
        self._clock = time.thread_time if version.on_cpu else time.perf_counter
        # Seconds by the magnitude of the input: the bit length of its number of elements.
        self._seconds: dict[int, float] = {}

    def run(self, calls: Sequence[Invocation]) -> list[Result]:
        size = sum(array.size for call in calls for array in call.inputs.values()).bit_length()
        with self._turn:
            if self._expected(size) < LONG:
                return self._timed(size, calls)
            # torch releases the GIL in its kernels: the worker goes on accepting meanwhile.
            return run_in_thread(lambda: self._timed(size, calls))

    def _timed(self, size: int, calls: Sequence[Invocation]) -> list[Result]:
        start, busy = time.perf_counter_ns(), self._clock()
        try:
            results = self._version.run(calls)
        finally:
            self._seconds[size] = (self._seconds.get(size, 0.0) + self._clock() - busy) / 2
        self._counters.ran(len(calls), time.perf_counter_ns() - start)
        return results

    def _expected(self, size: int) -> float:
        seconds = self._seconds.get(size)
        if seconds is not None:
            return seconds
        # Never seen: as much as the next smaller seen, and twice that for each doubling.
        smaller = [seen for seen in self._seconds if seen < size]
        if not smaller:
            return 0.0
        nearest = max(smaller)
        return self._seconds[nearest] * 2.0 ** (size - nearest)
