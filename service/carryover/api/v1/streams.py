"""`:stream`: newline-delimited JSON both ways over one request, each line answered as soon as its step is committed."""

from collections.abc import Iterator

from flask import Blueprint, Response, request

from carryover.api import once
from carryover.api.json import parse, require_media_type
from carryover.api.routing import model_route
from carryover.api.transport import CutShortError, arrivals
from carryover.api.v1 import schemas
from carryover.api.v1.sessions import answer_of, entry_of, if_match, migrate, step_of
from carryover.engine import Engine, Step
from carryover.errors import BodyTooLargeError, CarryoverError, InvalidInputError
from carryover.runtime.repository import Model

NDJSON = "application/x-ndjson"
MAX_AHEAD = 64
"""Lines that have arrived already and are stepped together, in one load and one commit."""


def routes(engine: Engine, max_line_bytes: int) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("streams", __name__)

    @model_route(blueprint, "POST", "/sessions/<name:session>:stream")
    def stream(model: str, version: str | None, session: str) -> Response:
        require_media_type(NDJSON)
        found = engine.repository.model(model, version)
        if "HTTP_IDEMPOTENCY_KEY" in request.environ:
            raise InvalidInputError(
                "a stream takes no Idempotency-Key: each of its lines may hold an 'idempotency_key'"
            )
        expected = if_match()
        engine.session(found, schemas.name(session), expected)
        lines = _Lines(arrivals(request.environ), max_line_bytes)
        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
        answers = _answers(engine, found, session, request.path, lines, expected=expected, take_over=migrate())
        return Response(answers, mimetype=NDJSON, headers=headers)

    return blueprint


def _answers(  # noqa: PLR0913
    engine: Engine, model: Model, session: str, path: str, lines: "_Lines", *, expected: int | None, take_over: bool
) -> Iterator[bytes]:
    yield b""  # the response's head goes out before the first line comes in
    render = once.renderer(answer_of)
    for batch in lines:
        asked = [_step(model, session, path, line) for line in batch]
        steps = [step for step in asked if isinstance(step, Step)]
        for step in steps:
            step.render, step.migrate = render, take_over
        # Until one line is stepped, each is on its own: that one must find the session where the stream is to begin.
        while steps and expected is not None:
            first = steps.pop(0)
            first.expected = expected
            _run(engine, [first])
            if first.error is None:
                expected = None
        if steps:
            _run(engine, steps)
        yield b"".join(entry_of(step) + b"\n" for step in asked)


def _run(engine: Engine, steps: list[Step]) -> None:
    try:
        engine.run(steps)
    except CarryoverError as error:
        for step in steps:
            step.error = error


def _step(model: Model, session: str, path: str, line: bytes | CarryoverError) -> Step | CarryoverError:
    if isinstance(line, CarryoverError):
        return line
    try:
        body = parse(schemas.Line, line)
        step = step_of(model, session, body.instances)
        if body.idempotency_key is not None:
            step.once = once.of_key(body.idempotency_key, path, line)
    except CarryoverError as error:
        return error
    return step


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
        """Part lines into batches; `skipping` says that the first is the end of one that was too long."""
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
        return BodyTooLargeError(
            f"the line is longer than the {self._limit} bytes that this service takes (MAX_BODY_BYTES)"
        )
