"""What the service can do, as one object."""

import secrets
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from carryover.engine.batcher import Batcher
from carryover.engine.executor import Forwards
from carryover.engine.transaction import MAX_ATTEMPTS, Step, Stepper, key, resolve
from carryover.errors import (
    CarryoverError,
    CommitUnknownError,
    GoneError,
    InvalidInputError,
    NameTakenError,
    NotFoundError,
    PreconditionFailedError,
    StateTooLargeError,
    StepMismatchError,
    StoreUnavailableError,
    UnavailableError,
    UnsupportedError,
)
from carryover.runtime import snapshot as snapshots
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model, Repository
from carryover.runtime.version import Call, ModelVersion, Result
from carryover.store import Commit, Once, Outcome, Record, Store, Stored
from carryover.telemetry.counters import Counters, Statistics


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker takes on.

    `batch` is the most requests that one forward takes, `queue` the most that may wait for a model, `ttl` the life of a
    session after its last use in seconds, `state_bytes` the largest state of a session.
    """

    batch: int
    queue: int
    ttl: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it stands; times in milliseconds since 1970, `ttl` in seconds."""

    name: str
    model: Model
    version: ModelVersion
    step: int
    created: int
    last_used: int
    expires: int
    ttl: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What goes with a change of a session.

    `expected` is the step that it must stand at, `exists` that there must be one, `new` that there must be none yet.
    With `once` the change is carried out once, and `render` makes the answer that is kept.
    """

    expected: int | None = None
    once: Once | None = None
    render: Callable[[Session], bytes] | None = None
    new: bool = False
    exists: bool = False


_UNANSWERED = CarryoverError("this call was not processed")
_PLAIN = Request()


@dataclass(slots=True, eq=False)
class _Prediction:
    """A stateless call and its answer."""

    call: Call
    queued: int
    finished: bool = False
    answer: Result | CarryoverError = _UNANSWERED


class Engine:
    """Predictions, sessions and accumulators over a repository and a store.

    `reload` has the repository read again, in all workers, and returns when those that serve it have taken over; who
    runs the service puts in its place what does so.
    """

    def __init__(self, repository: Repository, store: Store, limits: Limits) -> None:
        self.store = store
        self._limits = limits
        self.statistics = Statistics(limits.batch)
        self.reload: Callable[[], None] = _no_reload
        self._forwards = Forwards(self.statistics)
        self._stepper = Stepper(store, self._forwards, self.statistics, limits.state_bytes)
        self.serve(repository)

    def serve(self, repository: Repository) -> None:
        """Serve these models from now on."""
        self.repository = repository
        limit, capacity = self._limits.batch, self._limits.queue
        self._steps = {
            model.name: Batcher[Step](self._stepper.process, limit, capacity) for model in repository if model.stateful
        }
        self._predictions = {
            version: Batcher[_Prediction](
                _Predictor(version, self._forwards, self.statistics.of(version.name, version.version)), limit, capacity
            )
            for model in repository
            for version in model.versions.values()
        }

    @property
    def ttl(self) -> int:
        """Seconds that a session lives after its last use, unless it says otherwise."""
        return self._limits.ttl

    def predict(self, model: Model, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the model from its initial state and keep nothing."""
        item = _Prediction(Call(inputs, model.default.initial_state), time.perf_counter_ns())
        self._predictions[model.default].run([item])
        return _outputs(item.answer)

    def run(self, steps: list[Step]) -> None:
        """Run steps of one model and return when each is committed or has failed; see `Step.answer`."""
        _require_state(steps[0].model)
        now = time.perf_counter_ns()
        for step in steps:
            step.queued = now
        self._steps[steps[0].model.name].run(steps)

    def peek(
        self, model: Model, name: str, inputs: Mapping[str, Array], expected: int | None = None
    ) -> tuple[Mapping[str, Array], int]:
        """Run a step without committing it.

        Returns:
            The outputs, and the step that the session stands at.

        """
        _require_state(model)
        version, record = resolve(model, name, self.store.look(key(model, name))[0])
        _require_step(name, record.step, expected)
        result = self._forwards.run(version, [Call(inputs, record.state)])[0]
        return _outputs(result), record.step

    def session(self, model: Model, name: str, expected: int | None = None) -> Session:
        """Return a session as it stands; this does not count as a use."""
        _require_state(model)
        session = _session(model, name, self.store.look(key(model, name))[0])
        _require_step(name, session.step, expected)
        return session

    def create(
        self,
        model: Model,
        name: str | None,
        ttl: int | None,
        request: Request = _PLAIN,
        origin: Callable[[], Session] | None = None,
    ) -> Session | bytes:
        """Begin a session at step 0, or where another stands; without a name it gets one.

        Returns:
            The session; or the answer of the first time, where the request is one repeated.

        Raises:
            NameTakenError: a live session has the name.

        """
        name = name or (request.once.session if request.once else secrets.token_urlsafe(12))

        def begun(stored: Stored | None) -> Record:
            if stored is not None and stored.live:
                raise NameTakenError(
                    f"model {model.name!r} has a session {name!r} already: delete it, or take another name"
                )
            if origin is None:
                version = model.default
                return _new_record(version, version.initial_state, ttl or self._limits.ttl, 0)
            found = origin()
            return _new_record(found.version, found.state, ttl or found.ttl, found.step)

        return self._change(model, name, begun, Request(None, request.once, request.render))

    def reset(self, model: Model, name: str, request: Request = _PLAIN) -> Session | bytes:
        """Bring a session back to its version's initial state, at step 0."""

        def initial(stored: Stored | None) -> Record:
            version, record = resolve(model, name, stored)
            return record.advanced(0, version.initial_state)

        return self._change(model, name, initial, request)

    def put(
        self, model: Model, name: str, snapshot: snapshots.Snapshot, request: Request = _PLAIN, *, migrate: bool = False
    ) -> Session | bytes:
        """Give a session the step and state of a snapshot, or begin one with them.

        A session that begins is of the snapshot's version; one that lives stays on its own.
        """

        def given(stored: Stored | None) -> Record:
            if stored is not None and stored.live:
                if request.new:
                    raise NameTakenError(f"model {model.name!r} has a session {name!r} already")
                version, record = resolve(model, name, stored, migrate=migrate)
                state = snapshots.load(version, snapshot, migrate=migrate)
                return record.bound(version.fingerprint).advanced(snapshot.step, state)
            version = (snapshot.fingerprint and model.of_fingerprint(snapshot.fingerprint)) or model.default
            state = snapshots.load(version, snapshot, migrate=migrate)
            return _new_record(version, state, self._limits.ttl, snapshot.step)

        return self._change(model, name, given, request)

    def snapshot(self, session: Session) -> bytes:
        """Return a session's state as a file."""
        return snapshots.dump(session.version, session.state, session.step)

    def delete(self, model: Model, name: str, request: Request = _PLAIN) -> None:
        """End a session; one that has expired already, too."""

        def ended(stored: Stored | None) -> None:
            if stored is None:
                raise NotFoundError(f"model {model.name!r} has no session {name!r}")
            if stored.record is None:
                raise GoneError(f"session {name!r} of model {model.name!r} was deleted before")

        self._commit(model, name, ended, request)

    def _change(
        self, model: Model, name: str, change: Callable[[Stored | None], Record], request: Request
    ) -> Session | bytes:
        """Put what `change` makes of a session in its place."""
        made = self._commit(model, name, change, request)
        if made is None:
            raise GoneError(f"session {name!r} of model {model.name!r} has ended")
        return made

    def _commit(
        self, model: Model, name: str, change: Callable[[Stored | None], Record | None], request: Request
    ) -> Session | bytes | None:
        """Write what `change` makes of what is stored, by compare-and-set; again where another commit came between."""
        _require_state(model)
        place = key(model, name)
        for _ in range(MAX_ATTEMPTS):
            stored, answer = self.store.look(place, request.once)
            if request.once is not None and (replay := request.once.redeem(answer)) is not None:
                return replay
            record = change(stored)
            if record is not None and len(record.state) > self._limits.state_bytes:
                raise StateTooLargeError(
                    f"the state is {len(record.state)} bytes large, over the limit of {self._limits.state_bytes} "
                    "(MAX_STATE_BYTES)"
                )
            if request.exists and (stored is None or not stored.live):
                raise PreconditionFailedError(f"If-Match: model {model.name!r} has no session {name!r}")
            if stored is not None and stored.record is not None:
                _require_step(name, stored.record.step, request.expected)
            # Looked at once: its times are the same in the answer that is given and in the one that is kept.
            made = None if record is None else _session(model, name, Stored(b"", record, record.ttl * 1000))
            answers: tuple[tuple[Once, bytes], ...] = ()
            if request.once is not None and request.render is not None and made is not None:
                answers = ((request.once, request.render(made)),)
            live = stored is not None and stored.live
            outcome = self.store.commit([Commit(place, stored, record, live, answers)])[0]
            if isinstance(outcome, StoreUnavailableError):
                raise outcome
            if outcome is Outcome.COMMITTED:
                return made
            if outcome is Outcome.UNKNOWN and request.once is None:
                raise CommitUnknownError("the connection to Redis broke")
        raise UnavailableError(f"session {name!r} is changed from too many places at once")


class _Predictor:
    """Processes batches of stateless calls of one version."""

    def __init__(self, version: ModelVersion, forwards: Forwards, counters: Counters) -> None:
        self._version = version
        self._forwards = forwards
        self._counters = counters

    def __call__(self, items: list[_Prediction]) -> None:
        started = time.perf_counter_ns()
        groups: dict[Hashable, list[_Prediction]] = {}
        for item in items:
            group = self._version.group(item.call)
            groups.setdefault(id(item) if group is None else group, []).append(item)
        for members in groups.values():
            results = self._forwards.run(self._version, [member.call for member in members])
            for member, result in zip(members, results, strict=True):
                member.answer = result
                member.finished = True
        now = time.perf_counter_ns()
        failed = [now - item.queued for item in items if isinstance(item.answer, CarryoverError)]
        success = len(items) - len(failed)
        total = sum(now - item.queued for item in items) - sum(failed)
        self._counters.answered(
            success=success,
            success_ns=total,
            fail=len(failed),
            fail_ns=sum(failed),
            queue_ns=total - success * (now - started),
            input_ns=0,
            output_ns=0,
        )


def _no_reload() -> None:
    raise UnsupportedError("this service cannot read its model repository again; start it anew")


def _require_state(model: Model) -> None:
    if not model.stateful:
        raise InvalidInputError(
            f"model {model.name!r} has no state buffers and so no sessions; use /v1/models/{model.name}:predict"
        )


def _outputs(answer: Result | CarryoverError) -> Mapping[str, Array]:
    if isinstance(answer, CarryoverError):
        raise answer
    return answer.outputs


def _session(model: Model, name: str, stored: Stored | None) -> Session:
    version, record = resolve(model, name, stored)
    remaining = stored.remaining if stored else 0
    now = time.time_ns() // 1_000_000
    return Session(
        name=name,
        model=model,
        version=version,
        step=record.step,
        created=record.created,
        last_used=now + remaining - record.ttl * 1000,
        expires=now + remaining,
        ttl=record.ttl,
        state=record.state,
    )


def _new_record(version: ModelVersion, state: bytes, ttl: int, step: int) -> Record:
    return Record.new(version.fingerprint, version.layout_fingerprint, state, ttl, step)


def _require_step(name: str, step: int, expected: int | None) -> None:
    if expected is not None and expected != step:
        raise StepMismatchError(f"session {name!r} stands at step {step}, not at {expected}", step)
