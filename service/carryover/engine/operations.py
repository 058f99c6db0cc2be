"""What a caller may ask of a session: each operation says where it starts from, and what it leaves."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from carryover.engine.charge import Charge
from carryover.engine.lookup import Session, missing, served_version
from carryover.errors import (
    CarryoverError,
    GoneError,
    InvalidInputError,
    NameTakenError,
    NotFoundError,
    PreconditionFailedError,
    StepMismatchError,
    StoreUnavailableError,
)
from carryover.runtime import snapshot as snapshots
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model
from carryover.runtime.version import ModelVersion
from carryover.store import IdempotencyKey, Record
from carryover.store.record import TOMBSTONE
from carryover.telemetry.traces import Timing

Start = tuple[ModelVersion, Record, int, bytes]
"""Where an operation starts from: version, record, step and state. The record stays as it is until the operation has
succeeded."""


class Storable(Protocol):
    """A response, as the interface makes it."""

    def dump(self) -> bytes:
        """Return it as bytes, to be stored for a retry."""


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What must hold for a request to be carried out.

    `exists` says that there must be a session (`If-Match`), at one of `steps` where they are given; `absent` that there
    must be none (`If-None-Match: *`). With `key` the request is carried out once, however often it is sent. `migrate`
    lets a session move from a version that is not served to the default one; `create` lets a step create the session.
    """

    steps: frozenset[int] | None = None
    exists: bool = False
    absent: bool = False
    key: IdempotencyKey | None = None
    migrate: bool = False
    create: bool = False

    def check(self, name: str, step: int | None) -> None:
        """Raise unless a session of this name, at this step (None: there is no such session), is what is asked for.

        Raises:
            PreconditionFailedError: it exists, or does not exist.
            StepMismatchError: it is at another step.

        """
        if step is None:
            if self.exists:
                raise PreconditionFailedError(f"session {name!r} does not exist; If-Match expects that it does")
        elif self.absent:
            raise PreconditionFailedError(f"session {name!r} exists, at step {step}; If-None-Match expects none")
        elif self.steps is not None and step not in self.steps:
            expected = ", ".join(map(str, sorted(self.steps))) or "another"
            raise StepMismatchError(f"session {name!r} is at step {step}; If-Match expects {expected}", step)


UNCONDITIONAL = Preconditions()


@dataclass(slots=True, eq=False)
class Operation:
    """One request for one session, and its outcome.

    Where it `runs`, a forward on `inputs`, named arrays, starts from where the operation does, and advances the session
    by one step. With `end` the session is deleted afterwards. `respond` makes the response that is stored under the key
    in `preconditions`.

    Once `finished`, one of these holds: `error` is set; or `replay` is, the response stored for an earlier request with
    the same key; or the operation has been committed, and `version`, `step` (the session's, after it) and `outputs` are
    set, `session_after` where no forward ran, and `response` where there is a key.
    """

    model: Model
    session: str
    inputs: Mapping[str, Array] = field(default_factory=dict)
    preconditions: Preconditions = UNCONDITIONAL
    respond: Callable[[Any], Storable] | None = None
    end: bool = False
    state: bytes = b""
    """The state that it starts from."""
    owner: str = ""
    """Whose session it is: what its key in the store starts with."""
    charge: Charge | None = None
    """What it still has to take of its API key's rate."""
    timing: Timing | None = None
    """Where it is noted how long it took, if anyone asks."""
    batch: int = 0
    """How many operations were in its forward."""
    requests: int = 1
    """Of how many it is: a step may be several consecutive ones, all of which are committed, or none."""
    queued: int = 0
    """When it was queued, in nanoseconds of `time.perf_counter_ns`."""
    attempts: int = 0
    finished: bool = False
    error: CarryoverError | None = None
    replay: bytes | None = None
    response: Storable | None = None
    version: ModelVersion | None = None
    step: int = 0
    outputs: Mapping[str, Array] = field(init=False)
    session_after: Session | None = None

    runs: ClassVar[bool] = False
    """Whether a forward runs."""
    commits: ClassVar[bool] = True
    """Whether it changes the session."""
    asks_expiry: ClassVar[bool] = False
    """Whether it must know if the session has expired before the commit, which sees to that otherwise."""
    sessions: ClassVar[int] = 1

    def require(self, record: Record | None) -> None:
        """Raise where there is no session; operations that can do without one override this.

        `record` is what its key holds all the same, of a session that has expired or was deleted.

        Raises:
            NotFoundError, GoneError: there is none.

        """
        raise missing(self.model, self.session, record)

    def start(self, record: Record | None) -> Start | None:
        """Return where the operation starts from, or where it puts the session; None where it deletes it.

        `record` is the session, None where there is none.
        """
        raise NotImplementedError


@dataclass(slots=True, eq=False)
class Prediction(Operation):
    """A forward from the initial state, without a session."""

    runs: ClassVar[bool] = True
    commits: ClassVar[bool] = False

    def require(self, record: Record | None) -> None:
        """Need no session."""

    def start(self, record: Record | None) -> Start | None:  # noqa: ARG002
        """Start from the default version's initial state."""
        version = self.model.default
        return version, _NO_RECORD, 0, version.initial_state


@dataclass(slots=True, eq=False)
class Step(Operation):
    """One step of a session.

    With `create` a session that never was, or was deleted, is created with this time to live, in seconds.
    """

    create: int | None = None

    runs: ClassVar[bool] = True

    def require(self, record: Record | None) -> None:
        """Need a session, unless it may be created. One that has expired must not silently start from zero."""
        if self.create is None or (record is not None and record.kind != TOMBSTONE):
            raise missing(self.model, self.session, record)

    def start(self, record: Record | None) -> Start | None:
        """Start from where the session is."""
        if record is None:
            return _fresh(self.model.default, self.create or 0)
        migrate = self.preconditions.migrate
        return served_version(self.model, self.session, record, migrate=migrate), record, record.step, record.state


@dataclass(slots=True, eq=False)
class FirstStep(Operation):
    """The first step of a sequence: whatever session has its name is replaced by a new one."""

    ttl: int = 0

    runs: ClassVar[bool] = True

    def require(self, record: Record | None) -> None:
        """Need no session."""

    def start(self, record: Record | None) -> Start | None:  # noqa: ARG002
        """Start from the initial state."""
        return _fresh(self.model.default, self.ttl)


@dataclass(slots=True, eq=False)
class Peek(Operation):
    """A step that is not committed."""

    runs: ClassVar[bool] = True
    commits: ClassVar[bool] = False
    asks_expiry: ClassVar[bool] = True

    def start(self, record: Record | None) -> Start | None:
        """Start from where the session is."""
        if record is None:
            raise missing(self.model, self.session, record)
        return served_version(self.model, self.session, record), record, record.step, record.state


@dataclass(slots=True, eq=False)
class Create(Operation):
    """A new session at step 0; `ttl` is in seconds."""

    ttl: int = 0

    asks_expiry: ClassVar[bool] = True

    def require(self, record: Record | None) -> None:
        """Need no session."""

    def start(self, record: Record | None) -> Start | None:
        """Start from the initial state.

        Raises:
            NameTakenError: a live session has the name.

        """
        _require_free(self, record)
        return _fresh(self.model.default, self.ttl)


@dataclass(slots=True, eq=False)
class Fork(Operation):
    """A new session with the state and step of `origin`, whose time to live it has where `ttl` is None.

    `origin_preconditions` are those that concern the origin, as `preconditions` do the new session.
    """

    origin: str = ""
    ttl: int | None = None
    origin_preconditions: Preconditions = UNCONDITIONAL
    found: Record | StoreUnavailableError | None = None
    """The origin, as it was loaded."""

    asks_expiry: ClassVar[bool] = True

    @property
    def source(self) -> str:
        """The origin's key in the store."""
        return key(self.model, self.origin, self.owner)

    def require(self, record: Record | None) -> None:
        """Need no session."""

    def start(self, record: Record | None) -> Start | None:
        """Start from where the origin is.

        Raises:
            NameTakenError: a live session has the name.
            NotFoundError, GoneError, ForeignStateError, StepMismatchError: of the origin.

        """
        found = self.found
        if isinstance(found, StoreUnavailableError):
            raise found
        if found is None or not found.live:
            raise missing(self.model, self.origin, found)
        self.origin_preconditions.check(self.origin, found.step)
        _require_free(self, record)
        version = served_version(self.model, self.origin, found, migrate=self.origin_preconditions.migrate)
        return version, _new_record(version, self.ttl or found.ttl), found.step, found.state


@dataclass(slots=True, eq=False)
class Reset(Operation):
    """A session back at its version's initial state, at step 0."""

    def start(self, record: Record | None) -> Start | None:
        """Start from the initial state, with the times of the session."""
        if record is None:
            raise missing(self.model, self.session, record)
        version = served_version(self.model, self.session, record, migrate=self.preconditions.migrate)
        return version, record, 0, version.initial_state


@dataclass(slots=True, eq=False)
class Put(Operation):
    """A session with the step and state of `snapshot`.

    A session that is created is of the snapshot's version, with `ttl`; one that exists stays on its own. `trial` runs
    the version on the state, where only that shows whether it fits.
    """

    snapshot: snapshots.Snapshot | None = None
    trial: snapshots.Trial | None = None
    ttl: int = 0

    asks_expiry: ClassVar[bool] = True

    def require(self, record: Record | None) -> None:
        """Need no session."""

    def start(self, record: Record | None) -> Start | None:
        """Start from the snapshot.

        Raises:
            ForeignStateError, InvalidInputError, NonFiniteStateError: the snapshot does not fit the version.

        """
        snapshot, trial = self.snapshot, self.trial
        if snapshot is None or trial is None:
            raise ValueError("a snapshot and a trial are required")
        migrate, model = self.preconditions.migrate, self.model
        if record is not None:
            version = served_version(model, self.session, record, migrate=migrate)
        else:
            version = (snapshot.fingerprint and model.of_fingerprint(snapshot.fingerprint)) or model.default
            record = _new_record(version, self.ttl)
        return version, record, snapshot.step, snapshots.load(version, snapshot, trial, migrate=migrate)


@dataclass(slots=True, eq=False)
class Delete(Operation):
    """The end of a session, or of one that has expired already."""

    def require(self, record: Record | None) -> None:
        """Need a session that was not deleted.

        Raises:
            NotFoundError, GoneError: there is none.

        """
        if record is None:
            raise NotFoundError(f"model {self.model.name!r} has no session {self.session!r}")
        if record.kind == TOMBSTONE:
            raise GoneError(f"session {self.session!r} of model {self.model.name!r} was deleted before")

    def start(self, record: Record | None) -> Start | None:  # noqa: ARG002
        """Leave nothing."""
        return None


def key(model: Model, session: str, owner: str = "") -> str:
    """Return a session's key in the store; sessions of different owners have nothing to do with each other."""
    return f"{owner}{model.name}/{session}"


def new_name(preconditions: Preconditions) -> str:
    """Return the name of a session whose creator gives none: random, but the same for a retry."""
    return preconditions.key.session if preconditions.key else secrets.token_urlsafe(12)


def _fresh(version: ModelVersion, ttl: int) -> Start:
    if not version.stateful:
        raise InvalidInputError(
            f"version {version.version} of model {version.name!r}, which serves, keeps no state; a session can be "
            f"created on another: POST /v1/models/{version.name}/versions/…/sessions"
        )
    return version, _new_record(version, ttl), 0, version.initial_state


def _new_record(version: ModelVersion, ttl: int) -> Record:
    return Record.new(version.fingerprint, version.layout_fingerprint, version.number, version.initial_state, ttl)


_NO_RECORD = Record.new(b"", b"", 0, b"", 0)


def _require_free(operation: Operation, record: Record | None) -> None:
    if record is not None:
        raise NameTakenError(
            f"session {operation.session!r} of model {operation.model.name!r} exists already; delete it, or choose "
            "another name"
        )
