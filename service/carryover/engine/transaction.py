"""Steps of sessions: load, run side by side, commit by compare-and-set, run again where the race was lost."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from carryover.engine.executor import Forwards
from carryover.errors import (
    CarryoverError,
    CommitUnknownError,
    ForeignStateError,
    GoneError,
    NonFiniteStateError,
    NotFoundError,
    PreconditionFailedError,
    StateTooLargeError,
    StepMismatchError,
    StoreUnavailableError,
    UnavailableError,
)
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model
from carryover.runtime.version import Call, ModelVersion, Result
from carryover.store import Commit, Once, Outcome, Record, Store, Stored
from carryover.telemetry.counters import Statistics

MAX_ATTEMPTS = 200
"""How often a step is run again after losing the race for its session."""


@dataclass(slots=True, eq=False)
class Step:
    """One step asked for, and its answer.

    `inputs` are the named arrays of the call. The rest says how the session is to be found:

    - `expected`: it must stand at this step (`If-Match`);
    - `exists`: there must be one (`If-Match`, whatever it names);
    - `new`: there must be none yet (`If-None-Match: *`);
    - `create`: it begins with this time to live, in seconds, where there is none;
    - `start`: it begins anew, with this time to live, whatever there is;
    - `end`: it ends with this step;
    - `migrate`: it may pass from a version that is gone to the default one, where their states are alike;
    - `once`: this is carried out once, and `render` makes the answer that is kept.

    `queued` is when it was queued, in nanoseconds of `time.perf_counter_ns`.

    When `finished`, either `error` is set; or `replay` is, the answer as it was given the first time; or `outputs`,
    `version`, the new `number` and, with `once`, `rendered` are, and the step is committed.
    """

    model: Model
    session: str
    inputs: Mapping[str, Array]
    expected: int | None = None
    exists: bool = False
    new: bool = False
    create: int | None = None
    start: int | None = None
    end: bool = False
    migrate: bool = False
    once: Once | None = None
    render: Callable[["Step"], bytes] | None = None
    queued: int = 0
    finished: bool = False
    attempts: int = 0
    error: CarryoverError | None = None
    replay: bytes | None = None
    rendered: bytes | None = None
    outputs: Mapping[str, Array] = field(default_factory=dict)
    version: ModelVersion | None = None
    number: int = 0

    @property
    def key(self) -> str:
        """The session's key in the store."""
        return key(self.model, self.session)

    def answer(self) -> "Step":
        """Return this step, committed; raise its error where it failed."""
        if self.error is not None:
            raise self.error
        return self


def key(model: Model, session: str) -> str:
    """Return a session's key in the store."""
    return f"{model.name}/{session}"


def resolve(model: Model, session: str, stored: Stored | None, *, migrate: bool = False) -> tuple[ModelVersion, Record]:
    """Return the version and the record of what was read from the store.

    Raises:
        NotFoundError, GoneError, ForeignStateError: there is no state that could go on.

    """
    if stored is None:
        raise NotFoundError(f"model {model.name!r} has no session {session!r}")
    record = stored.record
    if record is None or not stored.live:
        raise gone(model, session)
    version = model.of_fingerprint(record.fingerprint)
    if version is not None:
        return version, record
    if migrate and record.layout == model.default.layout_fingerprint:
        return model.default, record
    raise foreign(model, session, record)


def foreign(model: Model, session: str, record: Record) -> ForeignStateError:
    """Return the error that a session's version is not served, and whether its state can be taken over."""
    version = model.default
    alike = record.layout == version.layout_fingerprint
    return ForeignStateError(
        f"session {session!r} of model {model.name!r} belongs to a version with the fingerprint "
        f"{record.fingerprint.hex()}, which is not version {' or '.join(model.versions)}; its state "
        + (
            f"has the names, shapes and datatypes of version {version.version}: ?migrate=true takes it over"
            if alike
            else f"has other names, shapes or datatypes than version {version.version} has, and cannot be taken over"
        )
    )


def gone(model: Model, session: str) -> GoneError:
    """Return the error that says so."""
    return GoneError(f"session {session!r} of model {model.name!r} has expired or was deleted")


class Stepper:
    """Takes batches of steps of one model through load, forward and commit."""

    def __init__(self, store: Store, forwards: Forwards, statistics: Statistics, max_state_bytes: int) -> None:
        self._store = store
        self._forwards = forwards
        self._statistics = statistics
        self._max_state_bytes = max_state_bytes

    def process(self, steps: list[Step]) -> None:
        """Finish the steps, in two round trips to the store; those that lost a race are left unfinished.

        Steps of one session run one after another, in their order; those of different sessions side by side.
        """
        started = time.perf_counter_ns()
        chains: dict[str, _Chain] = {}
        for step in steps:
            name = step.key
            chain = chains.get(name)
            if chain is None:
                chain = chains[name] = _Chain(name, self._max_state_bytes)
            chain.steps.append(step)
        self._load(chains)
        loaded = time.perf_counter_ns()
        self._run(list(chains.values()))
        ran = time.perf_counter_ns()
        self._commit(list(chains.values()))
        for chain in chains.values():
            chain.finish()
        self._count(steps, started, loaded - started, ran)

    def _count(self, steps: list[Step], started: int, input_ns: int, ran: int) -> None:
        """Put the steps that have their answers into the statistics; answers given again are none of them."""
        now = time.perf_counter_ns()
        groups: dict[ModelVersion, list[Step]] = {}
        for step in steps:
            if step.finished and step.replay is None:
                groups.setdefault(step.version or step.model.default, []).append(step)
        for version, members in groups.items():
            failed = [now - step.queued for step in members if step.error is not None]
            success = len(members) - len(failed)
            total = sum(now - step.queued for step in members) - sum(failed)
            self._statistics.of(version.name, version.version).answered(
                success=success,
                success_ns=total,
                fail=len(failed),
                fail_ns=sum(failed),
                queue_ns=total - success * (now - started),
                input_ns=success * input_ns,
                output_ns=success * (now - ran),
            )

    def _load(self, chains: Mapping[str, "_Chain"]) -> None:
        claims = [
            (chain, step, step.once) for chain in chains.values() for step in chain.steps if step.once is not None
        ]
        loaded, found = self._store.load(list(chains), [(chain.name, once) for chain, _, once in claims])
        for (chain, step, once), answer in zip(claims, found, strict=True):
            chain.claim(step, once, answer)
        for chain, stored in zip(chains.values(), loaded, strict=True):
            chain.begin(stored)

    def _run(self, chains: list["_Chain"]) -> None:
        """Run the chains' steps, in rounds of at most one step a session."""
        while True:
            groups: dict[Hashable, list[tuple[ModelVersion, _Chain, Call]]] = {}
            for chain in chains:
                following = chain.next()
                if following is not None:
                    version, call = following
                    group = version.group(call)
                    lane = (id(version), id(chain) if group is None else group)
                    groups.setdefault(lane, []).append((version, chain, call))
            if not groups:
                return
            for members in groups.values():
                results = self._forwards.run(members[0][0], [call for _, _, call in members])
                for (_, chain, _), result in zip(members, results, strict=True):
                    chain.accept(result)

    def _commit(self, chains: list["_Chain"]) -> None:
        changed = [chain for chain in chains if chain.advanced]
        releases = [(chain.name, once) for chain in chains for once in chain.releases()]
        if not changed and not releases:
            return
        outcomes = self._store.commit([chain.commit() for chain in changed], releases)
        for chain, outcome in zip(changed, outcomes, strict=True):
            chain.outcome = outcome
        if ended := [
            (chain.name, once) for chain in changed if chain.outcome is Outcome.GONE for once in chain.claims()
        ]:
            self._store.commit([], ended)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a session stands between two steps. `live`: it must not have expired by the time of the commit."""

    version: ModelVersion
    record: Record
    state: bytes
    number: int
    live: bool
    ended: bool = False


def _anew(step: Step, ttl: int) -> _Place:
    version = step.model.default
    record = Record.new(version.fingerprint, version.layout_fingerprint, version.initial_state, ttl)
    return _Place(version, record, version.initial_state, 0, live=False)


class _Chain:
    """The steps of one session in one batch, and where the session stands in between."""

    __slots__ = (
        "_claimed", "_max_state_bytes", "_next", "_place", "_position", "_stored",
        "advanced", "name", "outcome", "steps",
    )  # fmt: skip

    _next: _Place

    def __init__(self, name: str, max_state_bytes: int) -> None:
        self.name = name
        self.steps: list[Step] = []
        self.advanced = False
        self.outcome: Outcome | StoreUnavailableError | None = None
        self._max_state_bytes = max_state_bytes
        self._claimed: dict[str, Step] = {}
        self._position = 0
        self._stored: Stored | None = None
        self._place: _Place | None = None

    def begin(self, stored: Stored | StoreUnavailableError | None) -> None:
        """Start from what was read."""
        if not isinstance(stored, StoreUnavailableError):
            self._stored = stored
            return
        for step in self.steps:
            if step.replay is None:
                step.error = step.error or stored

    def claim(self, step: Step, once: Once, found: bytes | StoreUnavailableError | None) -> None:
        """Take what was found under a step's idempotency key, which is claimed for this step if that is nothing."""
        if isinstance(found, StoreUnavailableError):
            step.error = found
            return
        first = self._claimed.get(once.name)
        if first is not None:
            found = first.once.claim() if first.once else None
        elif step.attempts and found is not None and found[0] == 0:
            found = None  # the claim is this step's own, of the attempt before
        try:
            step.replay = once.redeem(found)
        except CarryoverError as error:
            step.error = error
        else:
            if step.replay is None:
                self._claimed[once.name] = step

    def next(self) -> tuple[ModelVersion, Call] | None:
        """Return the next step's version and call; None where all have run."""
        while self._position < len(self.steps):
            step = self.steps[self._position]
            if step.error is None and step.replay is None:
                try:
                    place = self._from(step)
                except CarryoverError as error:
                    step.error = error
                else:
                    self._next = place
                    return place.version, Call(step.inputs, place.state)
            self._position += 1
        return None

    def accept(self, result: Result | CarryoverError) -> None:
        """Take what the forward of the current step gave; where it failed, the session stays where it was."""
        step, place = self.steps[self._position], self._next
        self._position += 1
        if isinstance(result, CarryoverError):
            step.error = result
        elif result.non_finite is not None:
            step.error = NonFiniteStateError(
                f"this step would make the state buffer {result.non_finite!r} NaN or infinite; "
                f"the session stays at step {place.number}"
            )
        elif len(result.state) > self._max_state_bytes:
            step.error = StateTooLargeError(
                f"this step would make the session's state {len(result.state)} bytes large, over the limit of "
                f"{self._max_state_bytes} (MAX_STATE_BYTES); the session stays at step {place.number}"
            )
        else:
            step.outputs = result.outputs
            step.version = place.version
            step.number = place.number + 1
            if step.render is not None and step.once is not None:
                step.rendered = step.render(step)
            self._place = _Place(place.version, place.record, result.state, step.number, place.live, ended=step.end)
            self.advanced = True

    def commit(self) -> Commit:
        """Return the session's write."""
        answers = tuple(
            (step.once, step.rendered)
            for step in self._claimed.values()
            if step.once is not None and step.rendered is not None
        )
        place = self._place
        after = None if place is None or place.ended else place.record.advanced(place.number, place.state)
        return Commit(self.name, self._stored, after, place is not None and place.live, answers)

    def releases(self) -> list[Once]:
        """The claims of steps that have failed."""
        return [step.once for step in self._claimed.values() if step.error is not None and step.once is not None]

    def claims(self) -> list[Once]:
        """The claims of all steps."""
        return [step.once for step in self._claimed.values() if step.once is not None]

    def finish(self) -> None:
        """Mark the steps finished, or make them ready to be run again."""
        for step in self.steps:
            step.finished = True
            if step.replay is not None or self.outcome in (None, Outcome.COMMITTED):
                continue
            if isinstance(self.outcome, StoreUnavailableError):
                step.error = step.error or self.outcome
            elif self.outcome is Outcome.GONE:
                step.error = step.error or gone(step.model, step.session)
            elif self.outcome is Outcome.UNKNOWN and step.once is None:
                step.error = step.error or CommitUnknownError("the connection to Redis broke")
            else:
                self._again(step)

    def _from(self, step: Step) -> "_Place":
        """Return where the step starts from.

        Raises:
            CarryoverError: the session does not stand where the step wants it.

        """
        place = self._place
        if step.start is not None:
            return _anew(step, step.start)
        ended = place.ended if place is not None else self._stored is None or self._stored.record is None
        if ended and step.create is not None:
            if step.exists:
                raise PreconditionFailedError(f"If-Match: model {step.model.name!r} has no session {step.session!r}")
            return _anew(step, step.create)
        if place is None:
            version, record = resolve(step.model, step.session, self._stored, migrate=step.migrate)
            place = _Place(version, record.bound(version.fingerprint), record.state, record.step, live=True)
        elif ended:
            raise gone(step.model, step.session)
        elif step.model.of_fingerprint(place.version.fingerprint) is None:
            raise foreign(step.model, step.session, place.record)
        if step.new:
            raise PreconditionFailedError(f"model {step.model.name!r} has a session {step.session!r} already")
        if step.expected is not None and step.expected != place.number:
            sentence = f"session {step.session!r} stands at step {place.number}, not at {step.expected}"
            raise StepMismatchError(sentence, place.number)
        return place

    def _again(self, step: Step) -> None:
        step.attempts += 1
        step.finished = step.attempts >= MAX_ATTEMPTS
        step.error = None
        step.rendered = None
        if step.finished:
            step.error = UnavailableError(f"session {step.session!r} is stepped from too many places at once")
