"""`:stream`: lines of JSON both ways over one connection, each answered as soon as its step is committed.

They are lines of a body, newline-delimited, or messages of a WebSocket.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat

from carryover.api import conditions, names
from carryover.api.inbound import Inbound
from carryover.api.json import by_size, encode_lines, parse, require_media_type
from carryover.api.response import NDJSON, Response
from carryover.api.transport import CutShortError
from carryover.api.v1.instances import instances, instances_of_lines, instances_of_many
from carryover.api.v1.models import find, read_by
from carryover.api.v1.schemas import Line
from carryover.api.v1.sessions import entries, stepped, steps_of
from carryover.api.websocket import accepted
from carryover.engine import Engine
from carryover.engine.operations import Preconditions, Step
from carryover.errors import (
    ApartError,
    BodyTooLargeError,
    CarryoverError,
    GoneError,
    InvalidInputError,
    NotFoundError,
    StreamEndedError,
)
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model

MAX_AHEAD = 64
"""Lines that have arrived already and are run together, in one load and one commit."""
_HEADERS = (("X-Accel-Buffering", "no"), ("Cache-Control", "no-store"))


def stream(engine: Engine, inbound: Inbound) -> Response:
    """Run each line as one step. The preconditions hold for the first step that is committed."""
    require_media_type(inbound, NDJSON)
    return Response(_responses(engine, inbound, conditions.read), media_type=NDJSON, headers=_HEADERS)


def websocket(engine: Engine, inbound: Inbound) -> Response:
    """Run each message as one step, over a WebSocket. The preconditions hold for the first step that is committed.

    Pages, which cannot send headers, offer the subprotocol `carryover`, and their API key in base64url as another one:
    `carryover.bearer.…`.
    """
    headers = accepted(inbound)
    return Response(_responses(engine, inbound, conditions.of_websocket), 101, media_type=None, headers=headers)


def _responses(engine: Engine, inbound: Inbound, read: Callable[[Inbound], Preconditions]) -> Generator[bytes]:
    """Return the responses to the lines of a stream; `read` reads its preconditions."""
    if "idempotency-key" in inbound.headers:
        raise InvalidInputError("a stream takes no Idempotency-Key; each of its lines may have an 'idempotency_key'")
    asked = read(inbound)
    model, session = find(engine, inbound), names.of_path(inbound)
    _check(engine, model, session, asked)
    lines = _Lines(inbound.chunks or iter(()), inbound.max_bytes)
    return _Stream(engine, model, session, inbound, asked).responses(lines)


def _check(engine: Engine, model: Model, session: str, asked: Preconditions) -> None:
    """Raise unless the session is there, or may be created, and is where the stream is to start."""
    try:
        engine.session(model, session, asked, migrate=asked.migrate)
    except (NotFoundError, GoneError) as error:
        if not asked.create or (isinstance(error, GoneError) and not error.deleted):
            raise
        asked.check(session, None)


class _Stream:
    """One stream of a session's steps; `asked` are the preconditions of the request."""

    def __init__(self, engine: Engine, model: Model, session: str, inbound: Inbound, asked: Preconditions) -> None:
        self._engine = engine
        self._model = model
        self._session = session
        self._path = inbound.path
        self._request_id = inbound.request_id
        self._first: Preconditions | None = asked if asked.exists or asked.create else None
        self._rest = Preconditions(migrate=asked.migrate)

    def responses(self, lines: "_Lines") -> Generator[bytes]:
        """Yield the responses to the lines, and at last why the stream ends, if not because they do."""
        try:
            for batch in lines:
                yield self._together(batch) or self._one_by_one(batch)
        except (StreamEndedError, BodyTooLargeError) as error:
            yield self._lines([error])

    def _together(self, lines: Sequence[bytes | CarryoverError]) -> bytes | None:
        """Run plain lines as one operation, and return their responses; None, and nothing has changed, otherwise."""
        model = self._model
        if len(lines) == 1 or self._first is not None or model.mixed or not model.time_steps:
            return None
        given = [line for line in lines if isinstance(line, bytes)]
        read = instances_of_lines(model.inputs, given) if len(given) == len(lines) else None
        if read is None or self._engine.charge is not None:
            return None
        inputs, counts = read
        step = Step(model, self._session, inputs, self._rest, requests=len(lines))
        self._run_together([step])
        if step.error is not None:
            return None if isinstance(step.error, ApartError) else self._lines([step.error] * len(lines))
        return encode_lines(steps_of(step, counts))

    def _one_by_one(self, lines: Sequence[bytes | CarryoverError]) -> bytes:
        outcomes = self._steps(lines)
        self._run([outcome for outcome in outcomes if isinstance(outcome, Step)])
        return self._lines(outcomes)

    def _lines(self, outcomes: Sequence[Step | CarryoverError]) -> bytes:
        return encode_lines(entries(outcomes, self._request_id))

    def _run(self, steps: list[Step]) -> None:
        # Until one step is committed, each runs alone: that one must find the session where the stream is to start. It
        # alone may create it: a session that is deleted during the stream stays so.
        while steps and self._first is not None:
            step = steps.pop(0)
            step.preconditions = replace(self._first, key=step.preconditions.key)
            step.create = self._engine.ttl if self._first.create else None
            self._run_together([step])
            if step.error is None:
                self._first = None
        if steps:
            self._run_together(steps)

    def _run_together(self, steps: list[Step]) -> None:
        try:
            self._engine.run(steps)
        except CarryoverError as error:
            for step in steps:
                step.error = error

    def _steps(self, lines: Sequence[bytes | CarryoverError]) -> list[Step | CarryoverError]:
        """Return the step of each line, or what is wrong with it."""
        parsed = [_parsed(line) for line in lines]
        plain = [each[1].instances for each in parsed if isinstance(each, tuple)]
        together = len(plain) > 1 and not self._model.mixed
        found = instances_of_many(self._model.inputs, plain) if together else None
        inputs: Iterator[dict[str, Array] | None] = iter(found) if found is not None else repeat(None)
        return [self._step(*each, next(inputs)) if isinstance(each, tuple) else each for each in parsed]

    def _step(self, line: bytes, body: Line, inputs: Mapping[str, Array] | None) -> Step | CarryoverError:
        try:
            model = read_by(self._engine, self._model, self._session)
            inputs = inputs or by_size(line, lambda: instances(model.inputs, body.instances))
            step = Step(model, self._session, inputs, self._rest, stepped)
            if body.idempotency_key is not None:
                key = conditions.idempotency_key(body.idempotency_key, self._path, line)
                step.preconditions = replace(self._rest, key=key)
        except CarryoverError as error:
            return error
        return step


def _parsed(line: bytes | CarryoverError) -> tuple[bytes, Line] | CarryoverError:
    if isinstance(line, CarryoverError):
        return line
    try:
        return line, by_size(line, lambda: parse(Line, line))
    except (InvalidInputError, BodyTooLargeError) as error:
        return error


class _Lines:
    """Splits what arrives into lines; each turn gives all that are complete, waiting for at least one."""

    def __init__(self, pieces: Iterator[bytes], limit: int) -> None:
        self._pieces = pieces
        self._limit = limit

    def __iter__(self) -> Iterator[list[bytes | CarryoverError]]:
        rest, skipping = bytearray(), False
        try:
            for piece in self._pieces:
                rest += piece
                if b"\n" in piece:
                    *complete, tail = bytes(rest).split(b"\n")
                    rest = bytearray(tail)
                    yield from self._batches(complete, skipping=skipping)
                    skipping = False
                if len(rest) > self._limit:
                    rest, skipping = bytearray(), True
        except CutShortError:
            return  # a line that was not sent to its end is none
        if skipping or rest.strip():
            yield from self._batches([bytes(rest)], skipping=skipping)

    def _batches(self, lines: list[bytes], *, skipping: bool) -> Iterator[list[bytes | CarryoverError]]:
        """Split lines into batches; `skipping` says that the first is the end of one that was too long."""
        batch: list[bytes | CarryoverError] = []
        for line in lines:
            if skipping or len(line) > self._limit:
                batch.append(self._too_long())
            elif line.strip():
                batch.append(line)
            skipping = False
        for start in range(0, len(batch), MAX_AHEAD):
            yield batch[start : start + MAX_AHEAD]

    def _too_long(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the line is longer than {self._limit} bytes (MAX_BODY_BYTES)")
