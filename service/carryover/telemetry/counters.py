"""Counters of each model version since the service started, over all workers.

The counters are in memory that is shared with the workers forked later. Each worker adds to its own slot, so that none
waits for another, and a reader sums the slots. A slot outlives its worker: the next worker continues to count in it.
"""

import mmap
import time
from dataclasses import dataclass
from operator import add

SLOTS = 64
"""Workers that may run at the same time, the old ones of a reload included, before two share a slot."""

_FIELDS = 10
_SUCCESS, _SUCCESS_NS, _FAIL, _FAIL_NS, _QUEUE_NS, _INPUT_NS, _OUTPUT_NS, _CALLS, _INFER_NS, _LAST = range(_FIELDS)


@dataclass(frozen=True, slots=True)
class Totals:
    """The counts and durations (nanoseconds) of a version, over all workers.

    `queue_ns`, `input_ns` and `output_ns` are of the requests that succeeded: waiting for a batch, loading states and
    committing them. `calls` and `infer_ns` are of forwards, each counted once per call in its batch; `batches` has
    (forwards, nanoseconds) by batch size. `last` is the time of the last request, in milliseconds since 1970; 0 if none
    was made.
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
    batches: dict[int, tuple[int, int]]


class Counters:
    """The counters of one version. Batches of more than `largest` calls are counted as batches of `largest`."""

    def __init__(self, largest: int, slot: int) -> None:
        self._largest = largest
        self._width = _FIELDS + 2 * largest
        self._all = memoryview(mmap.mmap(-1, SLOTS * self._width * 8)).cast("q")
        self.claim(slot)

    def claim(self, slot: int) -> None:
        """Add to this slot from now on."""
        start = slot % SLOTS * self._width
        self._own = self._all[start : start + self._width]

    def ran(self, calls: int, nanoseconds: int) -> None:
        """Count a forward."""
        own = self._own
        own[_CALLS] += calls
        own[_INFER_NS] += calls * nanoseconds
        place = _FIELDS + 2 * (min(calls, self._largest) - 1)
        own[place] += 1
        own[place + 1] += nanoseconds

    def answered(  # noqa: PLR0913
        self, *, success: int, success_ns: int, fail: int, fail_ns: int, queue_ns: int, input_ns: int, output_ns: int
    ) -> None:
        """Count completed requests; durations are sums over the requests."""
        own = self._own
        own[_LAST] = time.time_ns() // 1_000_000
        if success:
            own[_SUCCESS] += success
            own[_SUCCESS_NS] += success_ns
            own[_QUEUE_NS] += queue_ns
            own[_INPUT_NS] += input_ns
            own[_OUTPUT_NS] += output_ns
        if fail:
            own[_FAIL] += fail
            own[_FAIL_NS] += fail_ns

    def totals(self) -> Totals:
        """Return the sums over all workers."""
        sums, last = [0] * self._width, 0
        for start in range(0, len(self._all), self._width):
            if self._all[start + _LAST] or self._all[start + _CALLS]:
                sums = list(map(add, sums, self._all[start : start + self._width]))
                last = max(last, self._all[start + _LAST])
        counted = sums[_FIELDS:]
        batches = {
            size: (count, nanoseconds)
            for size, (count, nanoseconds) in enumerate(zip(counted[::2], counted[1::2], strict=True), 1)
            if count
        }
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
            last=last,
            batches=batches,
        )


class Statistics:
    """The counters of all versions, by model and version."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._slot = 0
        self._counters: dict[tuple[str, str], Counters] = {}

    def of(self, model: str, version: str) -> Counters:
        """Return the counters of a version. Only those created before the workers are forked are shared."""
        key = (model, version)
        counters = self._counters.get(key)
        if counters is None:
            counters = self._counters[key] = Counters(self._largest, self._slot)
        return counters

    def claim(self, slot: int) -> None:
        """Add to this slot from now on: no other process may, while this one runs."""
        self._slot = slot
        for counters in self._counters.values():
            counters.claim(slot)
