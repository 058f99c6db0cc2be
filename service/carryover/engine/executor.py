"""Running forwards: short ones in place, long ones in a native thread, and a failing one without its neighbours."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from weakref import WeakKeyDictionary

import gevent
from gevent import Greenlet
from gevent.lock import Semaphore

from carryover.engine.costs import Costs, Size, magnitude, size_of
from carryover.engine.limits import Limits
from carryover.errors import CarryoverError, ForwardTimeoutError, ModelFailedError
from carryover.runtime import spare
from carryover.runtime.rejection import rejection
from carryover.runtime.selfcheck import difference
from carryover.runtime.version import Invocation, ModelVersion, Result
from carryover.telemetry.counters import Statistics
from carryover.threads import pause, run_in_thread

YIELD = 0.02
"""Seconds of forwards, one after another, after which others run."""

_requests = attrgetter("requests")

log = logging.getLogger(__name__)


class Executor:
    """Runs the forwards of all models, one at a time for each version, and beside it one that is known to be long."""

    def __init__(self, statistics: Statistics, limits: Limits) -> None:
        self._statistics = statistics
        self._limits = limits
        self._costs: WeakKeyDictionary[ModelVersion, Costs] = WeakKeyDictionary()
        self._lanes: WeakKeyDictionary[ModelVersion, _Lanes] = WeakKeyDictionary()

    def deadline(self) -> float:
        """Return until when forwards may run that are due now, in seconds of `time.perf_counter`."""
        return time.perf_counter() + self._limits.timeout

    def costs(self, version: ModelVersion) -> Costs:
        """Return what the forwards of a version have cost so far."""
        costs = self._costs.get(version)
        if costs is None:
            costs = self._costs[version] = Costs()
        return costs

    def run(
        self, version: ModelVersion, calls: Sequence[Invocation], deadline: float, *, aside: bool = False
    ) -> list[Result | CarryoverError]:
        """Run calls of one group together; where that fails, each alone, so that only the guilty one gets the error.

        What has no result at the deadline gets `ForwardTimeoutError`, and its result is discarded. What has too many
        elements gets `LimitExceededError`; calls that have too many together do not share a forward. With `aside`
        they run beside other calls of the version, if it has a spare.
        """
        size = size_of(calls)
        if size[0] > self._limits.elements:
            if len(calls) == 1:
                return [self._limits.too_many_elements("inputs", size[0])]
            return [result for call in calls for result in self.run(version, [call], deadline, aside=aside)]
        lanes = self._of(version)
        try:
            lane = lanes.aside(deadline) if aside else lanes.main
            return self._bounded(lane.run(size, calls, deadline))
        except TimeoutError:
            error = ForwardTimeoutError(version.name, self._limits.timeout)
            log.warning("%s", error)
            return [error] * len(calls)
        except ModelFailedError as error:
            if len(calls) == 1:
                return [self._fault(lane, calls[0], error, deadline)]
        return [result for call in calls for result in self.run(version, [call], deadline, aside=aside)]

    def _fault(self, lane: "_Lane", call: Invocation, failure: ModelFailedError, deadline: float) -> CarryoverError:
        """Return the error of a call that failed alone: where its input or its state is to blame, what says so."""
        if call.requests > 1:  # each of them is run apart after this
            return failure
        version = lane.version
        try:
            rejected = rejection(version, call, failure, partial(lane.attempt, deadline=deadline))
        except TimeoutError:
            rejected = None
        if rejected is None:
            log.error("model %s version %s", version.name, version.version, exc_info=failure)
            return failure
        log.warning("model %s version %s rejects an input: %.500r", version.name, version.version, failure.__cause__)
        return rejected

    def _of(self, version: ModelVersion) -> "_Lanes":
        lanes = self._lanes.get(version)
        if lanes is None:
            counters = self._statistics.of(version.name, version.version)
            lanes = self._lanes[version] = _Lanes(_Lane(version, self.costs(version), counters.ran))
        return lanes

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
    """One module's turn-taking.

    A forward runs in place where that is known to be short. All others run in a native thread: the first of each size,
    and every one that is known to be long.
    """

    def __init__(self, version: ModelVersion, costs: Costs, count: Callable[[int, int], None]) -> None:
        self.version = version
        self.costs = costs
        self.count = count
        self._turn = Semaphore(1)
        # What this thread itself is busy: to wait for a CPU, or for the GIL, makes no forward a long one. A GPU's work
        # is waited for.
        self._clock = time.thread_time if version.on_cpu else time.perf_counter
        # What forwards in place have taken since the last one that let others run.
        self._held = 0.0

    def run(self, size: Size, calls: Sequence[Invocation], deadline: float, *, counted: bool = True) -> list[Result]:
        turn = self._turn
        if not turn.acquire(blocking=False) and not turn.acquire(timeout=_until(deadline)):
            raise TimeoutError
        about = magnitude(size)
        if self.costs.in_place(about):
            try:
                results, took = self._timed(about, calls, in_place=True)
            finally:
                turn.release()
                if self._held > YIELD:
                    self._held = 0.0
                    pause()
        else:
            # torch releases the GIL in its kernels: the worker goes on accepting meanwhile. The turn ends with the
            # forward, however long the caller waits for it.
            work = partial(self._timed, about, calls, in_place=False)
            results, took = run_in_thread(work, _until(deadline), self._end_turn)
        if counted:
            self.count(sum(map(_requests, calls)), took)
        return results

    def attempt(self, call: Invocation, deadline: float) -> None:
        """Run a call that is of no interest to the statistics, and discard its result."""
        self.run(size_of([call]), [call], deadline, counted=False)

    def _end_turn(self) -> None:
        self._turn.release()

    def _timed(self, about: Size, calls: Sequence[Invocation], *, in_place: bool) -> tuple[list[Result], int]:
        start, busy = time.perf_counter_ns(), self._clock()
        try:
            results = self.version.run(calls)
        finally:
            seconds = self._clock() - busy
            if in_place:
                self._held += seconds
            self.costs.learn(about, seconds, in_place=in_place)
        return results, time.perf_counter_ns() - start


class _Lanes:
    """A version's lane, and the one of its spare module, which is built when it is first needed."""

    def __init__(self, main: _Lane) -> None:
        self.main = main
        self._aside: _Lane | None = None
        self._building: Greenlet[[], None] | None = None

    def aside(self, deadline: float) -> _Lane:
        """Return the lane beside the main one; that itself where there is none, or it is not built soon."""
        if self._aside is None:
            if self._building is None:
                self._building = gevent.spawn(self._build)
            self._building.join(max(0.0, deadline - time.perf_counter()) / 2)
        return self._aside or self.main

    def _build(self) -> None:
        """Build the spare, whoever waits for it, and take it if it gives what the first module does."""
        main, built = self.main, None
        try:
            version = run_in_thread(partial(spare.build, main.version))
            built = None if version is None else _Lane(version, main.costs, main.count)
            if built is None or not _agree(main, built):
                built = main
        except Exception:
            log.exception("model %s version %s: no second module", main.version.name, main.version.version)
        self._aside = built or main


def _agree(one: _Lane, other: _Lane) -> bool:
    """Whether two modules of a version give the same for the first example that they take."""
    for call in spare.examples(one.version):
        size = size_of([call])
        with suppress(ModelFailedError):
            (expected,), (found,) = (lane.run(size, [call], math.inf) for lane in (one, other))
            return difference(one.version, expected, found) is None
    return False


def _until(deadline: float) -> float | None:
    """How many seconds are left, at least none; None without a deadline."""
    return None if deadline == math.inf else max(0.0, deadline - time.perf_counter())
