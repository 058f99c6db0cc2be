"""Transactions: load, check, run, commit by compare-and-set; those that lost a race are run again.

This is the only loop that changes a session. Every operation goes through it, in batches of one model's.
"""

import time
from collections.abc import Hashable, Iterable, Sequence

from carryover.engine import rates
from carryover.engine.executor import Executor
from carryover.engine.limits import Limits
from carryover.engine.operations import Fork, Operation, key
from carryover.engine.record_cache import RecordCache
from carryover.engine.session_batch import SessionBatch
from carryover.errors import ApartError, CommitUnknownError, ForwardTimeoutError, StoreUnavailableError
from carryover.runtime.version import ModelVersion
from carryover.store import IdempotencyKey, Outcome, Store
from carryover.telemetry.counters import Statistics
from carryover.telemetry.metrics import Metrics

_CLAIMED = 8
"""Races after each so many of which the session is claimed: another worker, a little faster, would win them all."""

_Times = tuple[int, int, int, int]
"""When a batch was started, loaded, run and committed, in nanoseconds of `time.perf_counter_ns`."""


class Transaction:
    """Takes batches of operations of one model through load, forward and commit."""

    def __init__(
        self, store: Store, executor: Executor, statistics: Statistics, metrics: Metrics, limits: Limits
    ) -> None:
        self._store = store
        self._executor = executor
        self._statistics = statistics
        self._metrics = metrics
        self._limits = limits
        self._cache = RecordCache()

    def process(self, operations: list[Operation], *, aside: bool = False) -> None:
        """Finish the operations, in two round trips to the store; those that are to run again are left unfinished.

        Operations of one session run one after another, in their order; those of different sessions are batched. Where
        none has a session, the store is not asked. Those that are `aside` hold up no forward of others.
        """
        started = time.perf_counter_ns()
        batches = self._by_session(operations)
        read = self._load(batches)
        loaded = time.perf_counter_ns()
        self._expire(batches, started)
        self._run(batches, aside=aside)
        ran = time.perf_counter_ns()
        changed = self._commit(batches)
        committed = time.perf_counter_ns()
        self._confirm(batches)
        for batch in batches:
            batch.finish()
        if batches[0].key:
            self._metrics.stored(loaded - started if read else None, committed - ran if changed else None)
        self._count(operations, (started, loaded, ran, committed))

    def _by_session(self, operations: Iterable[Operation]) -> list[SessionBatch]:
        batches: dict[str, SessionBatch] = {}
        alone: list[SessionBatch] = []
        for operation in operations:
            if not operation.session:
                alone.append(SessionBatch("", operation, self._limits))
                continue
            name = key(operation.model, operation.session, operation.owner)
            batch = batches.get(name)
            if batch is None:
                batches[name] = SessionBatch(name, operation, self._limits)
            else:
                batch.operations.append(operation)
        return [*batches.values(), *alone]

    def _load(self, batches: Sequence[SessionBatch]) -> bool:
        """Load the sessions, the origins of forks and what lies under idempotency keys, and lock the keys.

        Return whether the store was asked.
        """
        batches = self._not_cached(batches)
        if not batches:
            return False
        expiring: list[int] = []
        forks: list[Fork] = []
        keyed: list[tuple[SessionBatch, Operation, IdempotencyKey]] = []
        charged: list[Operation] = []
        starved: list[str] = []
        for position, batch in enumerate(batches):
            for operation in batch.operations:
                preconditions = operation.preconditions
                if operation.asks_expiry or preconditions.exists or preconditions.absent:
                    expiring.append(position)
                if preconditions.key is not None:
                    keyed.append((batch, operation, preconditions.key))
                if isinstance(operation, Fork):
                    forks.append(operation)
                if operation.charge is not None:
                    charged.append(operation)
                if operation.attempts and operation.attempts % _CLAIMED == 0:
                    starved.append(batch.key)
        if starved:
            self._store.claim(list(dict.fromkeys(starved)))
        self._read(batches, expiring, forks, keyed, charged=charged)
        return True

    def _not_cached(self, batches: Sequence[SessionBatch]) -> list[SessionBatch]:
        """Take sessions from the cache, where that will do, and return those that are to be read."""
        cache = self._cache
        found: list[SessionBatch] = []
        for batch in batches:
            if cache.serves(batch.key) and batch.is_plain():
                batch.cached = True
                batch.load(cache.take(batch))
            elif batch.key:
                found.append(batch)
        return found

    def _read(
        self,
        batches: Sequence[SessionBatch],
        expiring: list[int],
        forks: list[Fork],
        keyed: list[tuple[SessionBatch, Operation, IdempotencyKey]],
        *,
        charged: list[Operation],
    ) -> None:
        names = [batch.key for batch in batches]
        for fork in forks:
            expiring.append(len(names))
            names.append(fork.source)
        demanded = rates.demands(charged) if charged else []
        locks = [(batch.key, held) for batch, _, held in keyed]
        loaded, found = self._store.load(names, locks, expiring, [demand for demand, _ in demanded])
        if demanded:
            rates.settle(demanded)
        for (batch, operation, held), before in zip(keyed, found, strict=True):
            batch.take_key(operation, held, before)
        for fork, record in zip(forks, loaded[len(batches) :], strict=True):
            fork.found = record
        compare = self._cache.compare
        for batch, record in zip(batches, loaded, strict=False):
            if not isinstance(record, StoreUnavailableError):
                compare(batch, record)
            batch.load(record)

    def _expire(self, batches: Sequence[SessionBatch], now: int) -> None:
        """Fail the operations that have waited too long: their clients may have left."""
        due = now - int(self._limits.timeout * 1e9)
        for batch in batches:
            for operation in batch.operations:
                if operation.queued < due and not operation.attempts and operation.replay is None:
                    name = operation.model.name
                    operation.error = operation.error or ForwardTimeoutError(name, self._limits.timeout)

    def _run(self, batches: Sequence[SessionBatch], *, aside: bool) -> None:
        """Run the forwards, in rounds of at most one call a session."""
        deadline = self._executor.deadline()
        while True:
            groups: dict[Hashable, tuple[ModelVersion, list[SessionBatch]]] = {}
            for batch in batches:
                start = batch.next()
                if start is not None:
                    version = start[0]
                    group = version.group(batch.call)
                    lane = (id(version), id(batch) if group is None else group)
                    groups.setdefault(lane, (version, []))[1].append(batch)
            if not groups:
                return
            for version, members in groups.values():
                calls = [batch.call for batch in members]
                results = self._executor.run(version, calls, deadline, aside=aside)
                for batch, result in zip(members, results, strict=True):
                    batch.running.batch = len(members)
                    batch.accept(result)

    def _commit(self, batches: Sequence[SessionBatch]) -> bool:
        """Write what the batches have changed, and give up the locks of what failed; whether there was any of that."""
        changed: list[SessionBatch] = []
        releases: list[tuple[str, IdempotencyKey]] = []
        for batch in batches:
            if batch.changed:
                batch.live = batch.after is not None and batch.after is batch.before
                changed.append(batch)
            if batch.keys is not None:
                releases += [(batch.key, held) for held in batch.keys.unused()]
        if not changed and not releases:
            return False
        outcomes = self._store.commit(changed, releases)
        ended: list[tuple[str, IdempotencyKey]] = []
        for batch, outcome in zip(changed, outcomes, strict=True):
            batch.outcome = outcome
            if batch.after is None and outcome is Outcome.COMMITTED:
                self._metrics.ended.add("sequence_end" if batch.running.end else "deleted")
            if outcome is Outcome.GONE and batch.keys is not None:
                ended += [(batch.key, held) for held in batch.keys.all()]
        self._keep(changed)
        if ended:
            self._store.commit([], ended)
        return True

    def _keep(self, batches: Iterable[SessionBatch]) -> None:
        """Keep the records of the sessions that were committed."""
        committed: list[SessionBatch] = []
        for batch in batches:
            if batch.outcome is Outcome.COMMITTED:
                committed.append(batch)
            elif batch.cached:
                self._cache.doubt()
        self._cache.keep(committed)

    def _confirm(self, batches: Sequence[SessionBatch]) -> None:
        """Read the sessions that were not read, and of which there is nothing to write, as all of it has failed."""
        doubtful = [batch for batch in batches if batch.cached and not batch.changed]
        if not doubtful:
            return
        started = time.perf_counter_ns()
        found, _ = self._store.load([batch.key for batch in doubtful], expiring=range(len(doubtful)))
        self._metrics.stored(time.perf_counter_ns() - started, None)
        for batch, record in zip(doubtful, found, strict=True):
            batch.confirm(record)
            if batch.cached:
                self._cache.doubt()

    def _count(self, operations: Sequence[Operation], times: _Times) -> None:
        """Count what became of the operations; of those with a forward also how long they took, unless replayed."""
        groups: dict[ModelVersion, list[Operation]] = {}
        conflicts = replays = 0
        for operation in operations:
            if operation.timing is not None:
                operation.timing.note(operation.queued, times)
            if not operation.finished:
                conflicts += operation.runs
            elif operation.replay is not None:
                replays += operation.runs
            else:
                if isinstance(operation.error, CommitUnknownError):
                    self._metrics.unknown.add("commits")
                if operation.runs:
                    groups.setdefault(operation.version or operation.model.default, []).append(operation)
        if conflicts or replays:
            version = operations[0].model.default
            self._statistics.of(version.name, version.version).retried(conflicts, replays)
        for version, members in groups.items():
            self._count_finished(version, members, times)

    def _count_finished(self, version: ModelVersion, operations: Iterable[Operation], times: _Times) -> None:
        started, loaded, ran, now = times
        waits: list[int] = []
        steps = success_ns = fail = fail_ns = 0
        for operation in operations:
            if operation.error is None:
                waits += [started - operation.queued] * operation.requests
                success_ns += (now - operation.queued) * operation.requests
                steps += operation.commits * operation.requests
            elif not isinstance(operation.error, ApartError):
                fail += operation.requests
                fail_ns += (now - operation.queued) * operation.requests
        self._statistics.known[version.name, version.version].answered(
            steps=steps,
            success_ns=success_ns,
            fail=fail,
            fail_ns=fail_ns,
            waits=waits,
            input_ns=loaded - started,
            output_ns=now - ran,
        )
