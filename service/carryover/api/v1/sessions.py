"""`/v1/models/{model}/sessions`: state that continues from call to call."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, cast

import orjson

from carryover.api import conditions, names, problems
from carryover.api.inbound import Inbound
from carryover.api.json import LARGE_BODY, by_size, encode, is_json, read, reply, require_media_type, timestamp
from carryover.api.numbers import Numbers
from carryover.api.perform import perform, response_of
from carryover.api.response import OCTETS, Response
from carryover.api.v1.instances import (
    MANY_ELEMENTS,
    instances,
    instances_of_many,
    instances_of_sessions,
    parted,
    predictions,
    predictions_of,
    predictions_of_many,
    read_instances,
)
from carryover.api.v1.models import find, read_by, tensor
from carryover.api.v1.schemas import (
    CreateSession,
    ManySteps,
    Nothing,
    PredictMany,
    SessionResource,
    StepPredictions,
)
from carryover.engine import Engine, Operation, Session
from carryover.engine.columns import Stepped
from carryover.engine.engine import require_state
from carryover.engine.operations import UNCONDITIONAL, Create, Delete, Fork, Preconditions, Put, Reset, Step, new_name
from carryover.errors import CarryoverError, InvalidInputError, KeyInUseError, KeyReusedError, RateLimitedError
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model
from carryover.runtime.snapshot import Snapshot
from carryover.threads import in_turns

_BRACES = 2
"""In the body of a step of many sessions, if none has objects as its instances."""
SNAPSHOTS = (OCTETS, "application/vnd.safetensors", "application/x-safetensors")


def create(engine: Engine, inbound: Inbound) -> Response:
    """Create a session."""
    body, asked = read(inbound, CreateSession, or_nothing=True), conditions.read(inbound)
    operation = Create(find(engine, inbound), body.session or new_name(asked), preconditions=asked)
    operation.ttl = body.ttl or engine.ttl
    return perform(engine, inbound, operation, _created)


def show(engine: Engine, inbound: Inbound) -> Response:
    """Describe a session."""
    session = engine.session(find(engine, inbound), names.of_path(inbound), conditions.read(inbound))
    return reply(_resource(session), step=session.step)


def delete(engine: Engine, inbound: Inbound) -> Response:
    """Delete a session."""
    operation = Delete(find(engine, inbound), names.of_path(inbound), preconditions=conditions.read(inbound))
    return perform(engine, inbound, operation, deleted)


def reset(engine: Engine, inbound: Inbound) -> Response:
    """Bring a session back to its initial state."""
    read(inbound, Nothing, or_nothing=True)
    operation = Reset(find(engine, inbound), names.of_path(inbound), preconditions=conditions.read(inbound))
    return perform(engine, inbound, operation, _changed)


def fork(engine: Engine, inbound: Inbound) -> Response:
    """Create a session with the state of another. `If-Match` concerns that one, `If-None-Match` the new one."""
    body, asked = read(inbound, CreateSession, or_nothing=True), conditions.read(inbound)
    target = Preconditions(absent=asked.absent, key=asked.key)
    operation = Fork(find(engine, inbound), body.session or new_name(asked), preconditions=target)
    operation.origin, operation.ttl = names.of_path(inbound), body.ttl
    operation.origin_preconditions = Preconditions(asked.steps, exists=asked.exists, migrate=asked.migrate)
    return perform(engine, inbound, operation, _created)


def predict(engine: Engine, inbound: Inbound) -> Response:
    """Run one step of a session."""
    model, session, asked = find(engine, inbound), names.of_path(inbound), conditions.read(inbound)
    model = read_by(engine, model, session)
    step = Step(model, session, read_instances(model.inputs, inbound), asked)
    if asked.create:
        step.create = engine.ttl
    return perform(engine, inbound, step, stepped)


def predict_many(engine: Engine, inbound: Inbound) -> Response:
    """Run one step of each of many sessions."""
    model, asked = find(engine, inbound), conditions.read(inbound)
    require_state(model)
    if asked is UNCONDITIONAL and (response := _in_columns(engine, model, inbound)) is not None:
        return response
    if len(inbound.body) > LARGE_BODY and inbound.body.count(b"{", 0, LARGE_BODY) == _BRACES:
        # Lists by name: how many is clear before they are read.
        engine.limits.require_sessions(inbound.body.count(b":") - 1)
    given = read(inbound, PredictMany).sessions
    if not given:
        raise InvalidInputError("sessions is empty; expected the instances of at least one session")
    engine.limits.require_sessions(len(given))
    outcomes = _steps(engine, model, given, asked, inbound.body)
    steps = [outcome for outcome in outcomes if isinstance(outcome, Step)]
    if steps:
        engine.run(steps)
    _raise_common(steps)
    return _together(dict(zip(given, entries(outcomes, inbound.request_id), strict=True)), steps)


def get_state(engine: Engine, inbound: Inbound) -> Response:
    """Return a session's state as a safetensors file."""
    session = engine.session(find(engine, inbound), names.of_path(inbound), conditions.read(inbound))
    file = f'attachment; filename="{session.name}-{session.step}.safetensors"'
    return Response(engine.snapshot(session), 200, session.step, OCTETS, (("Content-Disposition", file),))


def put_state(engine: Engine, inbound: Inbound) -> Response:
    """Replace a session's state by that in a safetensors file, or create a session with it."""
    require_media_type(inbound, *SNAPSHOTS)
    operation = Put(find(engine, inbound), names.of_path(inbound), preconditions=conditions.read(inbound))
    operation.snapshot = Snapshot.parse(inbound.body, _most_buffers(operation.model))
    operation.trial, operation.ttl = engine.trial, engine.ttl
    return perform(engine, inbound, operation, _changed)


def stepped(step: Operation) -> Response:
    """Return the response to a committed step."""
    return reply(_predictions(step, predictions_of(step), step.step), step=step.step)


def deleted(_: Operation) -> Response:
    """Return the response to a deletion."""
    return Response(status=204, media_type=None)


def entries(outcomes: Sequence[Step | CarryoverError], request_id: str) -> list[Any]:
    """Return what a response to several steps has of each, its own response or its problem, as `encode` takes it."""
    plain = [outcome for outcome in outcomes if isinstance(outcome, Step) and _is_plain(outcome)]
    found = predictions_of_many(plain) if len(plain) > 1 else None
    if found is None:
        return [_entry(outcome, request_id) for outcome in in_turns(outcomes)]
    made = {id(step): _predictions(step, values, step.step) for step, values in zip(plain, found, strict=True)}
    return [made.get(id(outcome)) or _entry(outcome, request_id) for outcome in outcomes]


def steps_of(step: Step, counts: Sequence[int]) -> Iterator[StepPredictions]:
    """Return the responses to consecutive steps that were one operation, each with so many of its instances."""
    rows = predictions(step.model.outputs, step.outputs, step.model.labels)
    large = sum(output.size for output in step.outputs.values()) > MANY_ELEMENTS
    ends = zip(accumulate(counts), counts, strict=True)
    for number, (end, count) in enumerate(in_turns(ends, 1) if large else ends, step.step - len(counts) + 1):
        yield _predictions(step, rows[end - count : end], number)


def _is_plain(step: Step) -> bool:
    """Whether a step has a response of its own, which is not stored."""
    return step.error is None and step.replay is None and step.response is None


def _entry(outcome: Step | CarryoverError, request_id: str) -> Any:
    error = outcome.error if isinstance(outcome, Step) else outcome
    if error is not None:
        return problems.problem(error, request_id)
    assert isinstance(outcome, Step)  # noqa: S101 - an error is never None
    return orjson.Fragment(response_of(outcome, stepped).content())


def _predictions(operation: Operation, values: Any, step: int) -> StepPredictions:
    version = operation.version
    assert version is not None  # noqa: S101 - it has run
    return StepPredictions(predictions=values, session=operation.session, step=step, version=version.version)


def _most_buffers(model: Model) -> int:
    return max(len(version.layout.buffers) for version in model.versions.values())


def _in_columns(engine: Engine, model: Model, inbound: Inbound) -> Response | None:
    """Run one step of each of many sessions at once; None, and nothing has changed, unless all are plain."""
    if not is_json(inbound) or len(inbound.body) > LARGE_BODY or model.mixed:
        return None
    plain = instances_of_sessions(model.inputs, inbound.body)
    ran = None if plain is None else engine.step_all(model, *plain)
    if plain is None or ran is None:
        return None
    rows = predictions(model.outputs, ran.outputs, model.labels) if ran.outputs else ()
    sessions, count = plain[0], len(rows) // len(plain[0])
    found: dict[str, Any] = {
        session: StepPredictions(
            predictions=rows[number * count : (number + 1) * count],
            session=session,
            step=step or 0,
            version=ran.version,
        )
        for number, (session, step) in enumerate(zip(sessions, ran.steps, strict=True))
    }
    if None in ran.steps:
        found |= _not_committed(engine, model, plain, ran, inbound.request_id)
    if sum(output.size for output in ran.outputs.values()) > MANY_ELEMENTS:
        found = {session: orjson.Fragment(encode(entry)) for session, entry in in_turns(found.items(), 1)}
    return reply(ManySteps(sessions=cast(dict[str, StepPredictions | problems.Problem], found)))


def _not_committed(
    engine: Engine, model: Model, plain: tuple[list[str], dict[str, Array]], ran: Stepped, request_id: str
) -> dict[str, Any]:
    """Return the problems of the steps that have failed, and run those that lost the race for their session."""
    sessions, inputs = plain
    each = zip(sessions, parted(model.inputs, inputs, len(sessions)), ran.steps, ran.errors, strict=True)
    outcomes: dict[str, Step | CarryoverError] = {
        session: error or Step(model, session, given, respond=stepped)
        for session, given, step, error in each
        if step is None
    }
    steps = [outcome for outcome in outcomes.values() if isinstance(outcome, Step)]
    try:
        if steps:
            engine.run(steps)
    except CarryoverError as error:  # the others are committed all the same
        for step in steps:
            step.error = error
    return dict(zip(outcomes, entries([*outcomes.values()], request_id), strict=True))


def _steps(
    engine: Engine, model: Model, given: Mapping[str, Any], asked: Preconditions, data: bytes
) -> list[Step | CarryoverError]:
    """Return a step of each of many sessions, or what is wrong with it; `data` is the body."""
    together = len(data) <= LARGE_BODY and not model.mixed
    found = instances_of_many(model.inputs, [*given.values()]) if together else None
    if found is None:
        each = in_turns(given.items())
        return [_step_or_error(engine, model, session, values, asked, data) for session, values in each]
    return [_named(model, session, inputs, asked) for session, inputs in in_turns(zip(given, found, strict=True))]


def _step_or_error(  # noqa: PLR0913, PLR0917
    engine: Engine, model: Model, session: str, values: object, asked: Preconditions, data: bytes
) -> Step | CarryoverError:
    try:
        if not isinstance(values, (list, Numbers)):
            raise InvalidInputError(f"sessions.{session:.140} must be a list of instances")
        model = read_by(engine, model, names.checked(session))
        return Step(model, session, by_size(data, lambda: instances(model.inputs, values)), asked, stepped)
    except CarryoverError as error:
        return error


def _named(model: Model, session: str, inputs: Mapping[str, Array], asked: Preconditions) -> Step | CarryoverError:
    try:
        return Step(model, names.checked(session), inputs, asked, stepped)
    except InvalidInputError as error:
        return error


def _together(found: Mapping[str, Any], steps: list[Step]) -> Response:
    """Return the response to a step of each of many sessions, some of which were `steps`."""
    response = reply(ManySteps(sessions=cast(dict[str, StepPredictions | problems.Problem], found)))
    done = [step for step in steps if step.error is None]
    if done and all(step.replay is not None for step in done):
        return response.with_headers(("Idempotency-Replayed", "true"))
    return response


def _raise_common(steps: list[Step]) -> None:
    """Raise what is wrong with the idempotency key, or the rate, of all the steps: it is the request's fault."""
    for kind in (KeyReusedError, KeyInUseError, RateLimitedError):
        if steps and all(isinstance(step.error, kind) for step in steps):
            raise steps[0].error or kind


def _created(operation: Operation) -> Response:
    location = f"/v1/models/{operation.model.name}/sessions/{operation.session}"
    return _described(operation, 201).with_headers(("Location", location))


def _changed(operation: Operation) -> Response:
    return _described(operation, 200)


def _described(operation: Operation, status: int) -> Response:
    session = operation.session_after
    if session is None:
        raise ValueError("the operation has left no session")
    return reply(_resource(session), status, session.step)


def _resource(session: Session) -> SessionResource:
    return SessionResource(
        session=session.name,
        model=session.model.name,
        version=session.version.version,
        step=session.step,
        created=timestamp(session.created),
        last_used=timestamp(session.last_used),
        expires=timestamp(session.expires),
        ttl=session.ttl,
        state=[tensor(info) for info in session.version.state_buffers(session.state)],
    )
