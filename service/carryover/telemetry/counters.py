"""Counters of each model version since the service started, over all workers."""

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carryover.telemetry.metrics import BOUNDS_NS, BUCKETS, Distribution
from carryover.telemetry.slots import Slots

STAGES = ("queue", "load", "forward", "commit")
"""What a request goes through: waiting for a batch, loading states, the forward, committing states."""

_FIELDS = 14
(
    _SUCCESS, _SUCCESS_NS, _FAIL, _FAIL_NS, _QUEUE_NS, _INPUT_NS, _OUTPUT_NS, _CALLS, _INFER_NS, _LAST, _STEPS,
    _CONFLICTS, _REPLAYS, _QUEUED,
) = range(_FIELDS)  # fmt: skip
_QUEUE, _LOAD, _FORWARD, _COMMIT = (_FIELDS + stage * BUCKETS for stage in range(len(STAGES)))
_BATCHES = _FIELDS + len(STAGES) * BUCKETS


@dataclass(frozen=True, slots=True)
class Totals:
    """The counts and durations (nanoseconds) of a version, over all workers.

    `queue_ns`, `input_ns` and `output_ns` are of the requests that succeeded: waiting for a batch, loading states and
    committing them. `calls` and `infer_ns` are of forwards, each counted once per call in its batch; `batches` has
    (forwards, nanoseconds) by batch size. `last` is the time of the last request, in milliseconds since 1970; 0 if none
    was made.

    `steps` were committed, `conflicts` are operations that lost the race for their session and were run again, and
    `replays` were answered with a stored response. `queued` wait now. `stages` has the distributions of `STAGES`.
    """

    success: int
    success_ns: int
    fail: int
    fail_ns: int
    queue_ns: int
    input_ns: int
    output_ns: int
    calls: int
    infer_ns: int
    last: int
    steps: int
    conflicts: int
    replays: int
    queued: int
    stages: dict[str, Distribution]
    batches: dict[int, tuple[int, int]]


class Counters:
    """The counters of one version. Batches of more than `largest` calls are counted as batches of `largest`."""

    def __init__(self, largest: int, slot: int) -> None:
        self._largest = largest
        self._slots = Slots(_BATCHES + 2 * largest, slot)

    def claim(self, slot: int) -> None:
        """Add to this slot from now on; nothing waits in this process yet."""
        self._slots.claim(slot)
        self.queue(0)

    def ran(self, calls: int, nanoseconds: int) -> None:
        """Count a forward."""
        own = self._slots.own
        own[_CALLS] += calls
        own[_INFER_NS] += calls * nanoseconds
        own[_FORWARD + bisect_left(BOUNDS_NS, nanoseconds)] += calls
        place = _BATCHES + 2 * (min(calls, self._largest) - 1)
        own[place] += 1
        own[place + 1] += nanoseconds

    def answered(  # noqa: PLR0913
        self,
        *,
        steps: int,
        success_ns: int,
        fail: int,
        fail_ns: int,
        waits: Sequence[int],
        input_ns: int,
        output_ns: int,
    ) -> None:
        """Count completed requests.

        `waits` are how long those that succeeded were queued, each of which took `input_ns` and `output_ns` as well;
        `steps` of them were committed. `success_ns` and `fail_ns` are sums.
        """
        own = self._slots.own
        own[_LAST] = time.time_ns() // 1_000_000
        if waits:
            success = len(waits)
            own[_SUCCESS] += success
            own[_SUCCESS_NS] += success_ns
            own[_QUEUE_NS] += sum(waits)
            own[_INPUT_NS] += success * input_ns
            own[_OUTPUT_NS] += success * output_ns
            own[_STEPS] += steps
            own[_LOAD + bisect_left(BOUNDS_NS, input_ns)] += success
            own[_COMMIT + bisect_left(BOUNDS_NS, output_ns)] += success
            for wait in waits:
                own[_QUEUE + bisect_left(BOUNDS_NS, wait)] += 1
        if fail:
            own[_FAIL] += fail
            own[_FAIL_NS] += fail_ns

    def retried(self, conflicts: int, replays: int) -> None:
        """Count operations that were run again, and those that were answered with a stored response."""
        own = self._slots.own
        own[_CONFLICTS] += conflicts
        own[_REPLAYS] += replays

    def queue(self, waiting: int) -> None:
        """Show how many requests wait in this process."""
        self._slots.own[_QUEUED] = waiting

    def totals(self) -> Totals:
        """Return the sums over all workers."""
        rows = self._slots.read()
        sums: list[int] = rows.sum(axis=0).tolist()
        counted = sums[_BATCHES:]
        batches = {
            size: (count, nanoseconds)
            for size, (count, nanoseconds) in enumerate(zip(counted[::2], counted[1::2], strict=True), 1)
            if count
        }
        spent = (sums[_QUEUE_NS], sums[_INPUT_NS], sums[_INFER_NS], sums[_OUTPUT_NS])
        starts = range(_FIELDS, _BATCHES, BUCKETS)
        return Totals(
            success=sums[_SUCCESS],
            success_ns=sums[_SUCCESS_NS],
            fail=sums[_FAIL],
            fail_ns=sums[_FAIL_NS],
            queue_ns=sums[_QUEUE_NS],
            input_ns=sums[_INPUT_NS],
            output_ns=sums[_OUTPUT_NS],
            calls=sums[_CALLS],
            infer_ns=sums[_INFER_NS],
            last=int(rows[:, _LAST].max(initial=0)),
            steps=sums[_STEPS],
            conflicts=sums[_CONFLICTS],
            replays=sums[_REPLAYS],
            queued=sums[_QUEUED],
            stages={
                stage: Distribution(sums[start : start + BUCKETS], total)
                for stage, start, total in zip(STAGES, starts, spent, strict=True)
            },
            batches=batches,
        )


class Statistics:
    """The counters of all versions, by model and version; `known` are those that were asked for before."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._slot = 0
        self.known: dict[tuple[str, str], Counters] = {}

    def __iter__(self) -> Iterator[tuple[str, str, Totals]]:
        """Yield each model and version that was ever served, with its totals."""
        return ((model, version, counters.totals()) for (model, version), counters in self.known.items())

    def of(self, model: str, version: str) -> Counters:
        """Return the counters of a version. Only those created before the workers are forked are shared."""
        key = (model, version)
        counters = self.known.get(key)
        if counters is None:
            counters = self.known[key] = Counters(self._largest, self._slot)
        return counters

    def claim(self, slot: int) -> None:
        """Add to this slot from now on: no other process may, while this one runs."""
        self._slot = slot
        for counters in self.known.values():
            counters.claim(slot)
