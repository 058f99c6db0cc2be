"""Transactions: load, check, run, commit by compare-and-set; those that lost a race are run again.

This is the only loop that changes a session. Every operation goes through it, in batches of one model's.
"""

import time
from collections.abc import Hashable, Iterable, Sequence
from itertools import takewhile

from carryover.engine import rates
from carryover.engine.executor import Executor
from carryover.engine.idempotency import KeyLocks
from carryover.engine.limits import Limits
from carryover.engine.lookup import Session, missing
from carryover.engine.operations import UNCONDITIONAL, Fork, Operation, Start, Step, key
from carryover.engine.record_cache import RecordCache
from carryover.errors import (
    ApartError,
    CarryoverError,
    CommitUnknownError,
    ForwardTimeoutError,
    NonFiniteStateError,
    StateTooLargeError,
    StoreUnavailableError,
    UnavailableError,
)
from carryover.runtime.datatypes import Array
from carryover.runtime.time_steps import MOST, Joined, join, split
from carryover.runtime.version import Invocation, ModelVersion, Result
from carryover.store import IdempotencyKey, Outcome, Record, Store
from carryover.store.record import DELETED
from carryover.telemetry.counters import Statistics
from carryover.telemetry.metrics import Metrics

MAX_ATTEMPTS = 200
"""How often an operation is run again after losing the race for its session."""
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
        for batch in batches:
            batch.finish()
        if batches[0].key:
            self._metrics.stored(loaded - started if read else None, committed - ran if changed else None)
        self._count(operations, (started, loaded, ran, committed))

    def _by_session(self, operations: Iterable[Operation]) -> list["SessionBatch"]:
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

    def _load(self, batches: Sequence["SessionBatch"]) -> bool:
        """Load the sessions, the origins of forks and what lies under idempotency keys, and lock the keys.

        Return whether the store was asked.
        """
        names = [batch.key for batch in batches if batch.key]  # those without a session come last
        if not names or self._from_cache(batches):
            return False
        expiring: list[int] = []
        forks: list[Fork] = []
        keyed: list[tuple[SessionBatch, Operation, IdempotencyKey]] = []
        charged: list[Operation] = []
        starved: list[str] = []
        for position in range(len(names)):
            batch = batches[position]
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
        self._read(batches[: len(names)], names, expiring, forks, keyed, charged=charged)
        return True

    def _from_cache(self, batches: Sequence["SessionBatch"]) -> bool:
        """Take the sessions from the cache, if all of them are there for what is asked."""
        serves = self._cache.serves
        for batch in batches:
            if not serves(batch.key) or not batch.is_plain():
                return False
        for batch in batches:
            batch.cached = True
            batch.load(self._cache.take(batch))
        return True

    def _read(  # noqa: PLR0913 - what one round trip reads
        self,
        batches: Sequence["SessionBatch"],
        names: list[str],
        expiring: list[int],
        forks: list[Fork],
        keyed: list[tuple["SessionBatch", Operation, IdempotencyKey]],
        *,
        charged: list[Operation],
    ) -> None:
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

    def _expire(self, batches: Sequence["SessionBatch"], now: int) -> None:
        """Fail the operations that have waited too long: their clients may have left."""
        due = now - int(self._limits.timeout * 1e9)
        for batch in batches:
            for operation in batch.operations:
                if operation.queued < due and not operation.attempts and operation.replay is None:
                    name = operation.model.name
                    operation.error = operation.error or ForwardTimeoutError(name, self._limits.timeout)

    def _run(self, batches: Sequence["SessionBatch"], *, aside: bool) -> None:
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

    def _commit(self, batches: Sequence["SessionBatch"]) -> bool:
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
        committed: list[SessionBatch] = []
        for batch, outcome in zip(changed, outcomes, strict=True):
            batch.outcome = outcome
            if outcome is Outcome.COMMITTED:
                committed.append(batch)
                if batch.after is None:
                    self._metrics.ended.add("sequence_end" if batch.running.end else "deleted")
            elif outcome is Outcome.GONE and batch.keys is not None:
                ended += [(batch.key, held) for held in batch.keys.all()]
        self._cache.keep(committed)
        if ended:
            self._store.commit([], ended)
        return True

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


class SessionBatch:
    """The operations of one session in one batch, and where the session is in between; it is a `Commit` to the store.

    `before` is the record that was read, `after` the one to write (None: the session is deleted). `changed` says that
    there is something to write, `live` that the session must not have expired meanwhile, as it goes on from what was
    read, and `outcome` what became of that. `cached` says that `before` is what was committed last, and was not read,
    `steady` how many steps in a row found the session as this worker had left it. `keys` are the operations'
    idempotency keys, `running` is the operation whose forward runs, and `call` what that is given: the operation, or
    several of them joined. Operations before `_apart` are not joined.
    """

    __slots__ = (
        "_apart", "_limits", "_position", "_record", "_start",
        "after", "before", "cached", "call", "changed", "key", "keys", "live", "operations", "outcome", "running",
        "steady",
    )  # fmt: skip

    _start: Start
    call: Invocation

    def __init__(self, name: str, operation: Operation, limits: Limits) -> None:
        self.key = name
        self.operations = [operation]
        self.running = operation
        self.changed = self.live = self.cached = False
        self.steady = 0
        self.outcome: Outcome | StoreUnavailableError | None = None
        self.before: Record | None = None
        self.after: Record | None = None
        self.keys: KeyLocks | None = None
        self._record: Record | None = None
        self._limits = limits
        self._position = self._apart = 0

    def take_key(self, operation: Operation, held: IdempotencyKey, found: bytes | StoreUnavailableError | None) -> None:
        """Take what was found under an operation's idempotency key, which is locked for it if that is nothing."""
        if self.keys is None:
            self.keys = KeyLocks()
        self.keys.take(operation, held, found)

    def is_plain(self) -> bool:
        """Whether the operations are steps that ask for nothing else, and run for the first time."""
        return all(not each.attempts and each.charge is None and _is_plain(each) for each in self.operations)

    def load(self, record: Record | StoreUnavailableError | None) -> None:
        """Start from what was read, or kept."""
        if isinstance(record, StoreUnavailableError):
            for operation in self.operations:
                if operation.replay is None:
                    operation.error = operation.error or record
        else:
            self.before = self._record = record

    def next(self) -> Start | None:
        """Go on to the next operation with a forward, and return where it starts from; None where all have run."""
        while self._position < len(self.operations):
            operation = self.operations[self._position]
            waits = self.keys is not None and self.keys.waits(operation)
            if operation.error is None and operation.replay is None and not waits:
                try:
                    start = self._started(operation)
                except CarryoverError as error:
                    operation.error = error
                else:
                    if operation.runs and start is not None:
                        operation.version, operation.state = start[0], start[3]
                        self.running, self._start = operation, start
                        self.call = operation if len(self.operations) == 1 else self._joined(operation)
                        return start
                    self._apply(operation, start)
            self._position += 1
        return None

    def accept(self, result: Result | CarryoverError) -> None:
        """Take what the forward of `running` gave; where it failed, the session stays where it was."""
        operation, call = self.running, self.call
        if isinstance(call, Joined):
            self._accept_joined(result, call.counts)
            return
        self._position += 1
        version, record, step, _ = self._start
        if operation.requests > 1 and self._apart_after(operation, result):
            operation.error = ApartError()
        elif isinstance(result, CarryoverError):
            operation.error = result
        elif not operation.commits:
            operation.outputs, operation.step = result.outputs, step
        elif result.non_finite is not None:
            operation.error = NonFiniteStateError(
                f"this step would make the state buffer {result.non_finite!r} NaN or infinite; "
                f"the session stays at step {step}"
            )
        elif operation.preconditions.key is not None and (error := self._limits.storable(result.outputs.values())):
            operation.error = error
        else:
            operation.outputs = result.outputs
            self._apply(operation, (version, record, step + operation.requests, result.state))

    def _apart_after(self, operation: Operation, result: Result | CarryoverError) -> bool:
        """Whether an operation's steps must run one by one, as one of them fails."""
        if isinstance(result, ForwardTimeoutError):
            return False
        specs = self._start[0].inputs
        rows = operation.inputs[specs[0].name].shape[specs[0].instance_axis or 0]
        return self._parted(result, [rows]) is None

    def _parted(self, result: Result | CarryoverError, counts: Sequence[int]) -> list[dict[str, Array]] | None:
        """Return the outputs of steps that have shared a forward; None unless all of them have succeeded."""
        if isinstance(result, CarryoverError) or result.non_finite is not None:
            return None
        fits = len(result.state) <= self._limits.state_bytes
        return split(self._start[0].outputs, result.outputs, counts) if fits else None

    def _joined(self, operation: Operation) -> Invocation:
        """Return the call of an operation, together with those that follow it and may share its forward."""
        version = self._start[0]
        if not version.time_steps or self._position < self._apart:
            return operation
        following = self.operations[self._position : self._position + MOST]
        steps = [each.inputs for each in takewhile(_is_plain, following)]
        return join(version.inputs, operation.state, steps) or operation

    def _accept_joined(self, result: Result | CarryoverError, counts: Sequence[int]) -> None:
        """Take what a forward gave for several steps; unless all of them have succeeded, each runs apart."""
        version, record, step, _ = self._start
        end = self._position + len(counts)
        outputs = self._parted(result, counts)
        if isinstance(result, CarryoverError) or outputs is None:
            self._apart = end
            return
        members = self.operations[self._position : end]
        for number, (operation, found) in enumerate(zip(members, outputs, strict=True), step + 1):
            operation.version, operation.step, operation.outputs = version, number, found
        self._position = end
        self._apply(members[-1], (version, record, step + len(members), result.state))

    @property
    def responses(self) -> Sequence[tuple[IdempotencyKey, bytes]]:
        """The responses that are stored with the session."""
        return () if self.keys is None else self.keys.responses()

    def finish(self) -> None:
        """Mark the operations finished, or make them ready to be run again."""
        committed = not self.changed or self.outcome is Outcome.COMMITTED
        for operation in self.operations:
            operation.finished = True
            if self.cached and self._in_doubt(operation):
                self._again(operation)
            elif not committed and operation.replay is None and not (self.keys and self.keys.waits(operation)):
                self._lost(operation)
        if self.keys is not None:
            self.keys.settle()

    def _started(self, operation: Operation) -> Start | None:
        """Return where an operation starts from.

        Raises:
            CarryoverError: the session is not as the operation needs it.

        """
        record = self._record
        live = record if record is not None and record.live else None
        if live is None:
            operation.require(record)
        if operation.preconditions is not UNCONDITIONAL:
            operation.preconditions.check(operation.session, None if live is None else live.step)
        return operation.start(live)

    def _apply(self, operation: Operation, after: Start | None) -> None:
        """Put the session where an operation leaves it, if its state is within the limit."""
        if after is None:
            self.after, self._record = None, DELETED
        else:
            version, record, step, state = after
            if len(state) > self._limits.state_bytes:
                limit = f"over the limit of {self._limits.state_bytes} (MAX_STATE_BYTES)"
                operation.error = StateTooLargeError(
                    f"this step would make the session's state {len(state)} bytes large, {limit}; "
                    f"the session stays at step {record.step}"
                    if operation.runs
                    else f"the state is {len(state)} bytes large, {limit}"
                )
                return
            record.fingerprint, record.version, record.step, record.state = (
                version.fingerprint, version.number, step, state,
            )  # fmt: skip
            operation.version, operation.step = version, step
            if not operation.runs:
                record.replace()
                model, remaining = operation.model, record.ttl * 1000
                operation.session_after = Session.of(model, operation.session, version, record, remaining)
            self.after, self._record = (None, DELETED) if operation.end else (record, record)
        self.changed = True
        if operation.preconditions.key is not None and operation.respond is not None:
            operation.response = operation.respond(operation)

    def _in_doubt(self, operation: Operation) -> bool:
        """Whether what came of an operation may come of a record that is out of date."""
        if self.outcome is Outcome.COMMITTED:
            return False
        failed = operation.error is not None and not isinstance(operation.error, ForwardTimeoutError)
        return failed or self.outcome is Outcome.GONE

    def _lost(self, operation: Operation) -> None:
        """Say what became of an operation whose batch was not committed, or have it run again."""
        if isinstance(self.outcome, StoreUnavailableError):
            operation.error = operation.error or self.outcome
        elif self.outcome is Outcome.GONE:
            operation.error = operation.error or missing(operation.model, operation.session, self.before)
        elif self.outcome is Outcome.UNKNOWN and operation.preconditions.key is None:
            operation.error = operation.error or CommitUnknownError("the connection to Redis broke")
        else:
            self._again(operation)

    def _again(self, operation: Operation) -> None:
        """Have an operation run again."""
        operation.attempts += 1
        operation.finished = operation.attempts >= MAX_ATTEMPTS
        operation.error = operation.response = None
        if operation.finished:
            operation.error = UnavailableError(f"too many clients change session {operation.session!r} at once")


def _is_plain(operation: Operation) -> bool:
    """Whether an operation is a step without conditions, of which only the outputs are of interest."""
    asked = operation.preconditions
    return (
        type(operation) is Step
        and operation.requests == 1
        and operation.error is None
        and operation.replay is None
        and not operation.end
        and (asked is UNCONDITIONAL or not (asked.key or asked.exists or asked.absent))
    )
