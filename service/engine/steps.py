"""Steps of sessions: load, run side by side, commit by compare-and-set, run again where the race was lost."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from service.engine.forwards import Forwards
from service.errors import (
    CarryoverError,
    ForeignStateError,
    GoneError,
    NonFiniteStateError,
    NotFoundError,
    StateTooLargeError,
    StepMismatchError,
    StoreUnavailableError,
    UnavailableError,
)
from service.model.repository import Model
from service.model.tensors import Array
from service.model.version import Call, ModelVersion, Result
from service.store import Commit, Outcome, Record, Store, Stored

MAX_ATTEMPTS = 200
"""How often a step is run again after losing the race for its session."""


@dataclass(slots=True, eq=False)
class Step:
    """One step asked for, and its answer.

    `inputs` are the named arrays of the call. `expected` is the step that the session must stand at (`If-Match`).
    `create` begins the session, with that time to live in seconds, where there is none.

    When `finished`, either `error` is set, or `outputs`, `version` and the new `number` are, and the step is committed.
    """

    model: Model
    session: str
    inputs: Mapping[str, Array]
    expected: int | None = None
    create: int | None = None
    finished: bool = False
    attempts: int = 0
    error: CarryoverError | None = None
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


def resolve(model: Model, session: str, stored: Stored | None) -> tuple[ModelVersion, Record]:
    """Return the version and the record of what was read from the store.

    Raises:
        NotFoundError, GoneError, ForeignStateError: there is no state that could go on.

    """
    if stored is None:
        raise NotFoundError(f"model {model.name!r} has no session {session!r}")
    record = stored.record
    if record is None or stored.remaining <= 0:
        raise _gone(model, session)
    version = model.of_fingerprint(record.fingerprint)
    if version is None:
        raise _foreign(model, session, record)
    return version, record


class Stepper:
    """Takes batches of steps of one model through load, forward and commit."""

    def __init__(self, store: Store, forwards: Forwards, max_state_bytes: int) -> None:
        self._store = store
        self._forwards = forwards
        self._max_state_bytes = max_state_bytes

    def process(self, steps: list[Step]) -> None:
        """Finish the steps, in two round trips to the store; those that lost a race are left unfinished.

        Steps of one session run one after another, in their order; those of different sessions side by side.
        """
        chains: dict[str, _Chain] = {}
        for step in steps:
            chains.setdefault(step.key, _Chain()).steps.append(step)
        try:
            for chain, stored in zip(chains.values(), self._store.load(list(chains)), strict=True):
                chain.begin(stored)
            self._run(list(chains.values()))
            changed = {name: chain for name, chain in chains.items() if chain.advanced}
            if changed:
                commits = [Commit(name, chain.stored, chain.result()) for name, chain in changed.items()]
                for chain, outcome in zip(changed.values(), self._store.commit(commits), strict=True):
                    chain.settle(outcome)
        except StoreUnavailableError as error:
            for step in steps:
                step.error = step.error or error
        for chain in chains.values():
            chain.finish()

    def _run(self, chains: list["_Chain"]) -> None:
        """Run the chains' steps, in rounds of at most one step a session."""
        while True:
            groups: dict[Hashable, list[tuple[_Chain, Call]]] = {}
            for chain in chains:
                call = chain.next()
                if call is not None:
                    group = chain.version.group(call)
                    groups.setdefault((id(chain.version), id(chain) if group is None else group), []).append(
                        (chain, call)
                    )
            if not groups:
                return
            for members in groups.values():
                results = self._forwards.run(members[0][0].version, [call for _, call in members])
                for (chain, _), result in zip(members, results, strict=True):
                    chain.accept(result, self._max_state_bytes)


class _Chain:
    """The steps of one session in one batch, and where the session stands in between."""

    __slots__ = ("advanced", "current", "lost", "position", "record", "state", "steps", "stored", "version")

    version: ModelVersion
    record: Record

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.stored: Stored | None = None
        self.state = b""
        self.position = 0
        self.advanced = 0
        self.lost = False

    def begin(self, stored: Stored | None) -> None:
        """Start from what was read, or from nothing where the first step may create the session."""
        first = self.steps[0]
        self.stored = stored
        try:
            if first.create is not None and (stored is None or stored.record is None):
                self.version = first.model.default
                self.record = Record.new(self.version.fingerprint, self.version.initial_state, first.create)
            else:
                self.version, self.record = resolve(first.model, first.session, stored)
        except CarryoverError as error:
            for step in self.steps:
                step.error = error
            self.position = len(self.steps)
        else:
            self.state = self.record.state

    def next(self) -> Call | None:
        """Return the next step's call; None where all have run."""
        while self.position < len(self.steps):
            step = self.steps[self.position]
            stands = self.record.step + self.advanced
            if step.model.of_fingerprint(self.record.fingerprint) is None:
                self._fail(_foreign(step.model, step.session, self.record))
            elif step.expected is not None and step.expected != stands:
                sentence = f"session {step.session!r} stands at step {stands}, not at {step.expected}"
                self._fail(StepMismatchError(sentence, stands))
            else:
                return Call(step.inputs, self.state)
        return None

    def accept(self, result: Result | CarryoverError, max_state_bytes: int) -> None:
        """Take what the forward of the current step gave."""
        step = self.steps[self.position]
        if isinstance(result, CarryoverError):
            self._fail(result)
        elif result.poisoned is not None:
            self._fail(
                NonFiniteStateError(
                    f"this step would make the state buffer {result.poisoned!r} NaN or infinite; the session stays at "
                    f"step {self.record.step + self.advanced}"
                )
            )
        elif len(result.state) > max_state_bytes:
            self._fail(
                StateTooLargeError(
                    f"this step would make the session's state {len(result.state)} bytes large, over the limit of "
                    f"{max_state_bytes} (MAX_STATE_BYTES); the session stays at step {self.record.step + self.advanced}"
                )
            )
        else:
            self.state = result.state
            self.advanced += 1
            self.position += 1
            step.outputs = result.outputs
            step.version = self.version
            step.number = self.record.step + self.advanced

    def result(self) -> Record:
        """The record to commit."""
        return self.record.advanced(self.advanced, self.state)

    def settle(self, outcome: Outcome) -> None:
        """Take what became of the commit."""
        if outcome is Outcome.GONE:
            for step in self.steps:
                step.error = step.error or _gone(step.model, step.session)
        self.lost = outcome is Outcome.CONFLICT

    def finish(self) -> None:
        """Mark the steps finished, or make them ready to be run again."""
        for step in self.steps:
            step.finished = True
            if self.lost:
                step.attempts += 1
                step.finished = step.attempts >= MAX_ATTEMPTS
                step.error = None
                if step.finished:
                    step.error = UnavailableError(f"session {step.session!r} is stepped from too many places at once")

    def _fail(self, error: CarryoverError) -> None:
        self.steps[self.position].error = error
        self.position += 1


def _foreign(model: Model, session: str, record: Record) -> ForeignStateError:
    served = ", ".join(f"version {name}" for name in model.versions)
    return ForeignStateError(
        f"session {session!r} of model {model.name!r} belongs to a version with the fingerprint "
        f"{record.fingerprint.hex()}, which is none of {served}"
    )


def _gone(model: Model, session: str) -> GoneError:
    return GoneError(f"session {session!r} of model {model.name!r} has expired or was deleted")
