"""`/v1/models/{model}/sessions`: state that goes on from call to call."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from flask import Blueprint, Response, request

from carryover.api import once, problems
from carryover.api.json import content, encode, read, reply, require_media_type, timestamp
from carryover.api.routing import model_route
from carryover.api.v1 import schemas
from carryover.api.v1.models import info
from carryover.engine import Engine, Request, Session, Step
from carryover.errors import (
    CarryoverError,
    InvalidInputError,
    KeyInUseError,
    KeyReusedError,
    NameTakenError,
    PreconditionFailedError,
)
from carryover.runtime.repository import Model
from carryover.runtime.snapshot import Snapshot
from carryover.runtime.tensors import instances, predictions

SNAPSHOT = "application/octet-stream"
_STEP_DIGITS = 30


def routes(engine: Engine) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("sessions", __name__)
    _resource(blueprint, engine)
    _steps(blueprint, engine)
    _state(blueprint, engine)
    return blueprint


def _resource(blueprint: Blueprint, engine: Engine) -> None:
    @model_route(blueprint, "POST", "/sessions")
    def create(model: str, version: str | None) -> Response:
        asked = _request(201)
        body = read(schemas.CreateSession, or_nothing=True)
        found = engine.repository.model(model, version)
        return _made(lambda: engine.create(found, body.session, body.ttl, asked), asked, 201)

    @model_route(blueprint, "GET", "/sessions/<name:session>")
    def show(model: str, version: str | None, session: str) -> Response:
        found = engine.session(engine.repository.model(model, version), schemas.name(session), if_match())
        return reply(_describe(found), step=found.step)

    @model_route(blueprint, "DELETE", "/sessions/<name:session>")
    def delete(model: str, version: str | None, session: str) -> Response:
        engine.delete(engine.repository.model(model, version), schemas.name(session), Request(if_match()))
        return Response(status=204)

    @model_route(blueprint, "POST", "/sessions/<name:session>:reset")
    def reset(model: str, version: str | None, session: str) -> Response:
        asked = _request(200)
        read(schemas.Nothing, or_nothing=True)
        found = engine.repository.model(model, version)
        return _made(lambda: engine.reset(found, schemas.name(session), asked), asked, 200)

    @model_route(blueprint, "POST", "/sessions/<name:session>:fork")
    def fork(model: str, version: str | None, session: str) -> Response:
        asked = _request(201)
        body = read(schemas.CreateSession, or_nothing=True)
        found, name = engine.repository.model(model, version), schemas.name(session)
        return _made(
            lambda: engine.create(
                found, body.session, body.ttl, asked, lambda: engine.session(found, name, asked.expected)
            ),
            asked,
            201,
        )


def _steps(blueprint: Blueprint, engine: Engine) -> None:
    render = once.renderer(answer_of)

    @model_route(blueprint, "POST", "/sessions/<name:session>:predict")
    def predict(model: str, version: str | None, session: str) -> Response:
        kept = once.from_header()
        step = step_of(engine.repository.model(model, version), schemas.name(session), read(schemas.Predict).instances)
        step.expected, step.migrate, step.once, step.render = if_match(), migrate(), kept, render
        engine.run([step])
        return once.answer_step(step, answer_of)

    @model_route(blueprint, "POST", "/sessions:predict")
    def predict_many(model: str, version: str | None) -> Response:
        kept = once.from_header()
        found = engine.repository.model(model, version)
        outcomes = steps_of(found, read(schemas.PredictMany).sessions)
        steps = [outcome for outcome in outcomes.values() if isinstance(outcome, Step)]
        expected, take_over = if_match(), migrate()
        for step in steps:
            step.expected, step.migrate, step.once, step.render = expected, take_over, kept, render
        if steps:
            engine.run(steps)
        _raise_common(steps)
        entries = {session: orjson.Fragment(entry_of(outcome)) for session, outcome in outcomes.items()}
        response = reply({"sessions": entries})
        done = [step for step in steps if step.error is None]
        if done and all(step.replay is not None for step in done):
            response.headers["Idempotency-Replayed"] = "true"
        return response


def _state(blueprint: Blueprint, engine: Engine) -> None:
    @model_route(blueprint, "GET", "/sessions/<name:session>/state")
    def snapshot(model: str, version: str | None, session: str) -> Response:
        found = engine.session(engine.repository.model(model, version), schemas.name(session), if_match())
        response = Response(engine.snapshot(found), mimetype=SNAPSHOT)
        response.headers["ETag"] = f'"{found.step}"'
        response.headers["Content-Disposition"] = f'attachment; filename="{found.name}-{found.step}.safetensors"'
        return response

    @model_route(blueprint, "PUT", "/sessions/<name:session>/state")
    def put(model: str, version: str | None, session: str) -> Response:
        require_media_type(SNAPSHOT, "application/vnd.safetensors", "application/x-safetensors")
        asked = _request(200)
        found = engine.repository.model(model, version)
        given = Snapshot.parse(content())
        return _made(lambda: engine.put(found, schemas.name(session), given, asked, migrate=migrate()), asked, 200)


def if_match() -> int | None:
    """Return the step that `If-Match` names; None without one, or with `*`.

    Raises:
        InvalidInputError: it is not the ETag of a session.

    """
    given = request.environ.get("HTTP_IF_MATCH")
    if given is None or given.strip() == "*":
        return None
    step = given.strip().removeprefix('"').removesuffix('"')
    if not (step.isascii() and step.isdecimal()):
        raise InvalidInputError(f'If-Match: {given:.80} is not the ETag of a session, such as "41"')
    # A longer number is no step that a session could stand at, and more than Python reads.
    return int(step[:_STEP_DIGITS])


def if_none_match() -> bool:
    """Return whether `If-None-Match` asks that there be nothing yet.

    Raises:
        InvalidInputError: it asks for something else.

    """
    given = request.environ.get("HTTP_IF_NONE_MATCH")
    if given is not None and given.strip() != "*":
        raise InvalidInputError(f"If-None-Match: {given:.80} must be *, where it is given")
    return given is not None


def migrate() -> bool:
    """Return whether the query asks to take a state over from a version that is gone."""
    given = request.args.get("migrate", "false") if request.environ.get("QUERY_STRING") else "false"
    if given not in ("true", "false"):
        raise InvalidInputError(f"migrate={given!r:.80} must be true or false")
    return given == "true"


def steps_of(model: Model, asked: Mapping[str, Any]) -> dict[str, Step | CarryoverError]:
    """Return the step of each of many sessions, or what is wrong with it."""
    if not asked:
        raise InvalidInputError("sessions is empty: it takes at least one session's instances")
    outcomes: dict[str, Step | CarryoverError] = {}
    for session, values in asked.items():
        try:
            if not isinstance(values, list):
                raise InvalidInputError(f"sessions.{session:.140} must be a list of instances")
            outcomes[session] = step_of(model, schemas.name(session), values)
        except CarryoverError as error:
            outcomes[session] = error
    return outcomes


def step_of(model: Model, session: str, values: list[Any]) -> Step:
    """Return the step that a body's instances ask for."""
    return Step(model, session, instances(model.inputs, values))


def answer_of(step: Step) -> dict[str, Any]:
    """Return a committed step's answer."""
    model = step.model
    values = predictions(model.outputs, step.outputs, model.labels)
    return {"predictions": values, "session": step.session, "step": step.number}


def entry_of(outcome: Step | CarryoverError) -> bytes:
    """Return what stands in an answer of several steps for one of them, as JSON: its answer, or its problem."""
    if isinstance(outcome, Step):
        if outcome.error is None:
            kept = outcome.replay or outcome.rendered
            return encode(answer_of(outcome)) if kept is None else once.body_of(kept)
        return encode(problems.problem(outcome.error))
    return encode(problems.problem(outcome))


def _request(status: int) -> Request:
    """What the headers ask of a change of a session."""
    return Request(
        if_match(),
        once.from_header(),
        lambda session: once.keep(status, session.step, encode(_describe(session))),
        new=if_none_match(),
        exists="If-Match" in request.headers,
    )


def _made(change: Any, asked: Request, status: int) -> Response:
    """Answer for a session that was begun or changed, this time or the first."""
    try:
        made = change()
    except NameTakenError as error:
        if asked.new:
            raise PreconditionFailedError(str(error)) from None
        raise
    if isinstance(made, bytes):
        response = once.answer(made, replayed=True)
    else:
        response = reply(_describe(made), status, made.step)
    if response.status_code == HTTPStatus.CREATED:
        described = orjson.loads(response.get_data())
        response.headers["Location"] = f"/v1/models/{described['model']}/sessions/{described['session']}"
    return response


def _raise_common(steps: list[Step]) -> None:
    """Raise what is wrong with the idempotency key of all the steps: it is the request's, and so is the fault."""
    for kind in (KeyReusedError, KeyInUseError):
        if steps and all(isinstance(step.error, kind) for step in steps):
            steps[0].answer()


def _describe(session: Session) -> dict[str, Any]:
    return {
        "session": session.name,
        "model": session.model.name,
        "version": session.version.version,
        "step": session.step,
        "created": timestamp(session.created),
        "last_used": timestamp(session.last_used),
        "expires": timestamp(session.expires),
        "ttl": session.ttl,
        "state": [info(tensor) for tensor in session.version.state_buffers(session.state)],
    }
