"""What the service can do, as one object."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from carryover.engine.charge import Charge
from carryover.engine.columns import ColumnRunner, Stepped
from carryover.engine.executor import Executor
from carryover.engine.followers import Follower, Followers
from carryover.engine.limits import Limits
from carryover.engine.lookup import Listed, Session, Tally, missing, served_version
from carryover.engine.operations import UNCONDITIONAL, Delete, Operation, Preconditions, key
from carryover.engine.queue import Queue
from carryover.engine.transaction import Transaction
from carryover.errors import (
    CarryoverError,
    ForbiddenError,
    GoneError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from carryover.keys import RIGHTS, Key, Keys
from carryover.runtime import snapshot as snapshots
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model, Repository
from carryover.runtime.version import Invocation, ModelVersion
from carryover.store import Record, Store
from carryover.telemetry.counters import Statistics
from carryover.telemetry.metrics import Metrics
from carryover.telemetry.request_log import LEAST_STATUS, RequestLog
from carryover.telemetry.traces import Timing, Tracer

_PAGE = 1000
"""Sessions that are counted or deleted at a time."""


class Engine:
    """Predictions, sessions and accumulators over a repository and a store.

    `reload` has the repository read again, in all workers, and returns when those that serve it have replaced this one;
    whoever runs the service sets it. `keys` are the API keys, None where anyone may call the service. With a `key`, the
    sessions are that caller's, and no others exist. `charge` is what a request takes of the rate of its key,
    `timing` where it is noted how long it takes; `tracer` sends spans, where that is configured.
    """

    def __init__(self, repository: Repository, store: Store, limits: Limits) -> None:
        self.store = store
        self.limits = limits
        self.statistics = Statistics(limits.batch)
        self.metrics = Metrics()
        self.request_log = RequestLog(LEAST_STATUS["off"], json=False)
        self.reload: Callable[[], None] = _no_reload
        self.keys: Keys | None = None
        self.key: Key | None = None
        self.charge: Charge | None = None
        self.timing: Timing | None = None
        self.tracer: Tracer | None = None
        self._of: dict[Key, Engine] = {}
        self._asked = set[str]()  # models for which requests may wait: looking at all of them would grow with them
        self._followers = Followers(store)
        self._executor = Executor(self.statistics, limits)
        self._transaction = Transaction(store, self._executor, self.statistics, self.metrics, limits)
        self._columns = ColumnRunner(store, self._executor, self.statistics, self.metrics, limits)
        self.serve(repository)

    def serve(self, repository: Repository) -> None:
        """Serve these models from now on."""
        self.repository = repository
        # Two for each model: a prediction without a session must not wait for Redis, nor fail with it.
        self._sessions = {model.name: self._queue(model) for model in repository if model.stateful}
        self._predictions = {model.name: self._queue(model) for model in repository}
        for model in repository:
            for version in model.versions.values():
                self.statistics.of(model.name, version.version)  # before workers are forked, so that they share them

    def of(self, key: Key) -> "Engine":
        """Return the engine as a request with this key sees it."""
        found = self._of.get(key)
        if found is None:
            found = self._of[key] = self._copy()
            found.key = key
        if key.rate is not None:
            found = found._copy()  # noqa: SLF001 - of its own class
            found.charge = Charge(self.store, key, key.rate)
        return found

    def _copy(self) -> "Engine":
        """Return another one that has all in common with it, in a fifth of the time that `copy` takes."""
        found = object.__new__(Engine)
        found.__dict__.update(self.__dict__)
        return found

    def timed(self, timing: Timing) -> "Engine":
        """Return the engine for one request, of whose operations it is noted how long they take."""
        found = self._copy()
        found.timing = timing
        return found

    def acting_for(self, name: str) -> "Engine":
        """Return the engine with the sessions of the key of this name, for an administrator."""
        found = self._copy()
        found.key = Key(name, frozenset(RIGHTS), None if self.key is None else self.key.models)
        return found

    def claim(self, slot: int) -> None:
        """Count in this slot from now on: no other process may, while this one runs."""
        self.statistics.claim(slot)
        self.metrics.claim(slot)

    def release(self, slot: int) -> None:
        """Show nothing more of what the process that had this slot was busy with: it has ended."""
        self.statistics.claim(slot)
        self.metrics.release(slot)

    def sample(self) -> None:
        """Show what this process is busy with, and whether it has lost the store."""
        for name in tuple(self._asked):
            waiting = sum(queues[name].waiting for queues in (self._predictions, self._sessions) if name in queues)
            self.statistics.of(name, self.repository.model(name).default.version).queue(waiting)
            if not waiting:
                self._asked.discard(name)
        self.metrics.redis_down.set(self.store.health.reason is not None)

    def _queue(self, model: Model) -> Queue:
        return Queue(self._transaction, self._executor.costs(model.default), self.limits)

    @property
    def ttl(self) -> int:
        """Seconds that a session lives after its last use, unless it says otherwise."""
        return self.limits.ttl

    def run(self, operations: Sequence[Operation]) -> None:
        """Run operations of one model, and return when each is committed or has failed.

        Either all have a session, or none.

        Raises:
            OverloadedError: too many wait already; none was run.
            ForbiddenError: the caller may not use sessions.
            RateLimitedError: the rate of the caller's key is used up; operations on sessions have it as their error.

        """
        first = operations[0]
        if first.session:
            require_state(first.model)
            if self.key is not None:
                charge = None if self.charge is None or self.charge.paid else self.charge
                for operation in operations:
                    operation.owner, operation.charge = _owner(self.key), charge
        elif self.charge is not None:
            self.charge.take()
        queues = self._sessions if first.session else self._predictions
        now = time.perf_counter_ns()
        for operation in operations:
            operation.queued, operation.timing = now, self.timing
        self._asked.add(first.model.name)
        queues[first.model.name].run(operations)

    def step_all(self, model: Model, sessions: Sequence[str], inputs: Mapping[str, Array]) -> Stepped | None:
        """Run one step of each of some sessions; None, and nothing has changed, unless all are plain.

        The inputs have as many instances for each session, of one after another.

        Raises:
            ForbiddenError: the caller may not use sessions.

        """
        owner = self._whose()
        if self.charge is not None or self.timing is not None:
            return None
        return self._columns.run(model, [key(model, session, owner) for session in sessions], inputs)

    def session(
        self, model: Model, name: str, preconditions: Preconditions = UNCONDITIONAL, *, migrate: bool = False
    ) -> Session:
        """Return a session as it is, or as it would `migrate`; reading it does not extend its time to live.

        Raises:
            NotFoundError, GoneError, ForeignStateError, PreconditionFailedError: there is none to return.

        """
        record = self.record(model, name, preconditions)
        version = served_version(model, name, record, migrate=migrate)
        return Session.of(model, name, version, record, record.remaining)

    def record(self, model: Model, name: str, preconditions: Preconditions = UNCONDITIONAL) -> Record:
        """Return the record of a session, whether or not its version is served.

        Raises:
            NotFoundError, GoneError, PreconditionFailedError: there is none to return.

        """
        require_state(model)
        record = self.look(model, name)
        if record is None or not record.live:
            raise missing(model, name, record)
        preconditions.check(name, record.step)
        return record

    def look(self, model: Model, name: str) -> Record | None:
        """Return what the key of a session holds."""
        started = time.perf_counter_ns()
        record = self.store.look(self._key(model, name))
        self.metrics.round_trips.observe("look", time.perf_counter_ns() - started)
        return record

    @contextmanager
    def following(self, model: Model, name: str, follower: Follower) -> Iterator[None]:
        """Look at a session for a follower."""
        place = self._key(model, name)
        self._followers.add(place, follower)
        try:
            yield
        finally:
            self._followers.remove(place, follower)

    def _key(self, model: Model, name: str) -> str:
        return key(model, name, self._whose())

    def _whose(self) -> str:
        """Whose sessions the caller uses."""
        return "" if self.key is None else _owner(self.key)

    def version_of(self, model: Model, session: str) -> Model:
        """Return a model with the version only that a session is on; the model where there is no such session."""
        record = self.store.look(self._key(model, session))
        version = record and model.of_fingerprint(record.fingerprint)
        return model.at(version.version) if version else model

    def sessions(self, model: Model, prefix: str, cursor: str, limit: int) -> tuple[list[Listed], str]:
        """Return some sessions of a model whose names start with `prefix`, and the cursor of those that follow.

        The first cursor and the last are empty.
        """
        require_state(model)
        first = key(model, "", "" if self.key is None else self.key.owner)
        found, following = self.store.page(first + prefix, cursor, limit)
        now = time.time_ns() // 1_000_000
        return [
            Listed(stored.removeprefix(first), record, size, now + record.remaining) for stored, record, size in found
        ], following

    def count(self, model: Model, prefix: str, cursor: str, seconds: float) -> tuple[Tally, str]:
        """Count the sessions whose names start with `prefix`, and the bytes of their states, for about so long.

        Return as well the cursor of those that are left, empty if none are.
        """
        until, tally = time.monotonic() + seconds, Tally()
        while True:
            found, cursor = self.sessions(model, prefix, cursor, _PAGE)
            tally.add(found)
            if not cursor or time.monotonic() > until:
                return tally, cursor

    def delete(self, model: Model, prefix: str, cursor: str, seconds: float) -> tuple[int, str]:
        """Delete the sessions whose names start with `prefix`, for about so long; return how many, and as `count` does.

        Raises:
            CarryoverError: one could not be deleted; others may have been.

        """
        until, deleted = time.monotonic() + seconds, 0
        everything = self.acting_for("" if self.key is None else self.key.name)
        while True:
            found, cursor = self.sessions(model, prefix, cursor, _PAGE)
            for start in range(0, len(found), self.limits.batch):
                deleted += everything.delete_all(model, found[start : start + self.limits.batch])
            if not cursor or time.monotonic() > until:
                return deleted, cursor

    def delete_all(self, model: Model, sessions: Sequence[Listed]) -> int:
        """Delete these sessions; return how many there still were."""
        operations = [Delete(model, session.name) for session in sessions]
        self.run(operations)
        failed = [operation.error for operation in operations if operation.error is not None]
        for error in failed:
            if not isinstance(error, (NotFoundError, GoneError)):
                raise error
        return len(operations) - len(failed)

    def trial(self, version: ModelVersion, call: Invocation) -> None:
        """Run a call in its turn, and discard its result.

        Raises:
            CarryoverError: it failed.

        """
        (result,) = self._executor.run(version, [call], self._executor.deadline())
        if isinstance(result, CarryoverError):
            raise result

    def snapshot(self, session: Session) -> bytes:
        """Return a session's state as a file."""
        return snapshots.dump(session.version, session.state, session.step)


def require_state(model: Model) -> None:
    """Raise unless a model keeps state.

    Raises:
        InvalidInputError: it does not.

    """
    if not model.stateful:
        raise InvalidInputError(
            f"model {model.name!r} keeps no state, and so has no sessions or sequences; "
            f"use /v1/models/{model.name}:predict, or infer without a sequence_id"
        )


def _owner(key: Key) -> str:
    """Return whose sessions those of a caller are; `infer` needs the right only where there is a sequence.

    Raises:
        ForbiddenError: the caller may not use sessions.

    """
    if "sessions" not in key.rights:
        raise ForbiddenError(f"the API key {key.name!r} lacks the right 'sessions'")
    return key.owner


def _no_reload() -> None:
    raise UnsupportedError("this service cannot read its model repository again; restart it")
