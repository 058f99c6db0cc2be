"""One step of each of many sessions, as columns: the plain case of a transaction.

All records are read, run and written as one array. Only what is plain is done here: live sessions of one version that
have its usual state, none of which fails. For anything else nothing is written, and the transaction has the last word;
so it has where a session's commit lost a race.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gevent.lock import Semaphore

from carryover.engine.costs import SMALL
from carryover.engine.executor import Executor
from carryover.engine.limits import Limits
from carryover.errors import CarryoverError, CommitUnknownError, ForwardTimeoutError, StoreUnavailableError
from carryover.runtime import columns
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model
from carryover.runtime.version import ModelVersion, Result
from carryover.store import Outcome, Records, Store
from carryover.telemetry.counters import Statistics
from carryover.telemetry.metrics import Metrics

_AT_ONCE = 4
"""Calls of a model that are carried out at once: while one waits for Redis, others run."""


@dataclass(slots=True)
class Stepped:
    """What became of a step of each of some sessions.

    `version` has run. `outputs` have the instances of one session after another. The step of a session is None where it
    was not committed: because of its error or, where that is None too, because it is to be run again.
    """

    version: str
    outputs: Mapping[str, Array]
    steps: Sequence[int | None]
    errors: Sequence[CarryoverError | None]


class ColumnRunner:
    """Runs steps of many sessions at once."""

    def __init__(
        self, store: Store, executor: Executor, statistics: Statistics, metrics: Metrics, limits: Limits
    ) -> None:
        self._store = store
        self._executor = executor
        self._statistics = statistics
        self._metrics = metrics
        self._limits = limits
        self._running = 0
        self._turns = defaultdict[str, Semaphore](lambda: Semaphore(_AT_ONCE))

    def run(self, model: Model, keys: Sequence[str], inputs: Mapping[str, Array]) -> Stepped | None:
        """Run a step of the session at each key; None, and nothing has changed, unless all are plain.

        The inputs have as many instances for each session, of one after another.
        """
        if self._running >= self._limits.queue or len(keys) > min(self._limits.batch, self._limits.sessions):
            return None  # who waits, and for how long, is for the queue to say
        self._running += 1
        try:
            return self._in_turn(model, keys, inputs)
        finally:
            self._running -= 1

    def _in_turn(self, model: Model, keys: Sequence[str], inputs: Mapping[str, Array]) -> Stepped | None:
        turns = self._turns[model.name]
        if not turns.acquire(timeout=self._limits.timeout):
            error = ForwardTimeoutError(model.name, self._limits.timeout)
            return self._failed(model.default, [error] * len(keys), time.perf_counter_ns())
        try:
            return self._run(model, keys, inputs)
        finally:
            turns.release()

    def _run(self, model: Model, keys: Sequence[str], inputs: Mapping[str, Array]) -> Stepped | None:
        started = time.perf_counter_ns()
        found = self._store.read(keys)
        errors = [value if isinstance(value, StoreUnavailableError) else None for value in found]
        if any(errors):
            return self._failed(model.default, errors, started)  # those of other servers are run again
        records = Records.of(found)
        version = None if records is None else model.of_fingerprint(records.fingerprint)
        if records is None or version is None or not self._plain(version, records, inputs):
            return None
        loaded = time.perf_counter_ns()
        result = self._forward(version, records, inputs)
        if not isinstance(result, Result):
            return None if result is None else self._failed(version, [result] * len(keys), started)
        ran = time.perf_counter_ns()
        steps, written = records.advanced(version.number, result.state)
        outcomes = self._store.write(keys, written)
        stepped = _stepped(version.version, result.outputs, steps, outcomes)
        committed = time.perf_counter_ns()
        self._metrics.stored(loaded - started, committed - ran)
        self._count(version, stepped, (started, loaded, ran, committed))
        return stepped

    def _plain(self, version: ModelVersion, records: Records, inputs: Mapping[str, Array]) -> bool:
        size, elements = records.state_bytes, sum(array.size for array in inputs.values())
        usual = size == version.layout.nbytes and size <= self._limits.state_bytes
        short = elements <= SMALL and not self._executor.costs(version).aside(elements)
        return usual and short and columns.fit(version)

    def _forward(
        self, version: ModelVersion, records: Records, inputs: Mapping[str, Array]
    ) -> Result | ForwardTimeoutError | None:
        """Return the result, its outputs with the instances of one session after another; None if it is not plain."""
        count = len(records)
        batch = {spec.name: columns.batched(spec, inputs[spec.name], count) for spec in version.inputs}
        call = columns.Columns(batch, records.states(), count)
        (result,) = self._executor.run(version, [call], self._executor.deadline())
        if isinstance(result, ForwardTimeoutError):
            return result
        if isinstance(result, CarryoverError) or result.non_finite is not None or len(result.state) != len(call.state):
            return None
        rows = call.inputs[version.inputs[0].name].shape[version.inputs[0].batch_dim or 0]
        for spec in version.outputs:
            output = result.outputs[spec.name]
            if output.shape[spec.batch_dim or 0] != rows:
                return None
            result.outputs[spec.name] = columns.unbatched(spec, output, count)
        return result

    def _failed(self, version: ModelVersion, errors: Sequence[CarryoverError | None], started: int) -> Stepped:
        """Return, and count, steps of which nothing was written."""
        failed, now = [error for error in errors if error is not None], time.perf_counter_ns()
        self._count(version, Stepped(version.version, {}, [None] * len(failed), failed), (started, now, now, now))
        return Stepped(version.version, {}, [None] * len(errors), errors)

    def _count(self, version: ModelVersion, stepped: Stepped, times: tuple[int, int, int, int]) -> None:
        started, loaded, ran, now = times
        done = sum(step is not None for step in stepped.steps)
        failed = sum(error is not None for error in stepped.errors)
        unknown = sum(isinstance(error, CommitUnknownError) for error in stepped.errors)
        if unknown:
            self._metrics.unknown.add("commits", unknown)
        counters = self._statistics.of(version.name, version.version)
        counters.answered(
            steps=done,
            success_ns=done * (now - started),
            fail=failed,
            fail_ns=failed * (now - started),
            waits=[0] * done,
            input_ns=loaded - started,
            output_ns=now - ran,
        )
        if again := len(stepped.steps) - done - failed:
            counters.retried(again, 0)


def _stepped(
    version: str,
    outputs: Mapping[str, Array],
    steps: Sequence[int],
    outcomes: Sequence[Outcome | StoreUnavailableError],
) -> Stepped:
    if set(outcomes) == {Outcome.COMMITTED}:
        return Stepped(version, outputs, steps, [None] * len(steps))
    errors: list[CarryoverError | None] = []
    for outcome in outcomes:
        error = CommitUnknownError("the connection to Redis broke") if outcome is Outcome.UNKNOWN else outcome
        errors.append(error if isinstance(error, CarryoverError) else None)
    committed = [step if outcome is Outcome.COMMITTED else None for step, outcome in zip(steps, outcomes, strict=True)]
    return Stepped(version, outputs, committed, errors)
