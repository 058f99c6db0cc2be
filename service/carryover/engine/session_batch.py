"""The operations of one session in one batch: where each starts from, what it leaves, and what became of it."""

from collections.abc import Sequence
from itertools import takewhile

from carryover.engine.idempotency import KeyLocks
from carryover.engine.limits import Limits
from carryover.engine.lookup import Session, missing
from carryover.engine.operations import UNCONDITIONAL, Operation, Start, Step
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
from carryover.runtime.version import Invocation, Result
from carryover.store import IdempotencyKey, Outcome, Record
from carryover.store.record import DELETED

MAX_ATTEMPTS = 200
"""How often an operation is run again after losing the race for its session."""


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
        for operation in self.operations:
            if operation.attempts or operation.charge is not None or not _is_plain(operation):
                return False
        return True

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

    def confirm(self, record: Record | StoreUnavailableError | None) -> None:
        """Take what was read after all operations of a cached record have failed: their errors hold if it is that."""
        if isinstance(record, StoreUnavailableError):
            self.cached = False
            for operation in self.operations:
                operation.error = record
        elif record is not None and self.before is not None:
            self.cached = not (record.live and record.header == self.before.header)

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
        return self.outcome is not Outcome.COMMITTED and (operation.error is not None or self.outcome is Outcome.GONE)

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
