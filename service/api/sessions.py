"""`/v1/models/{model}/sessions`: state that goes on from call to call."""

from collections.abc import Mapping
from typing import Any, cast

from flask import Blueprint, Response, request

from service.api import bodies, problems
from service.api.json import read, reply, timestamp
from service.api.models import info
from service.api.routing import model_route
from service.engine import Engine, Session, Step
from service.errors import CarryoverError, InvalidInputError
from service.model.repository import Model
from service.model.tensors import instances, predictions


def routes(engine: Engine) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("sessions", __name__)

    @model_route(blueprint, "POST", "/sessions")
    def create(model: str, version: str | None) -> Response:
        found = engine.repository.model(model, version)
        body = read(bodies.CreateSession, or_nothing=True)
        session = engine.create(found, body.session, body.ttl)
        response = reply(_describe(session), 201, session.step)
        response.headers["Location"] = f"/v1/models/{model}/sessions/{session.name}"
        return response

    @model_route(blueprint, "GET", "/sessions/<session>")
    def show(model: str, version: str | None, session: str) -> Response:
        found = engine.session(engine.repository.model(model, version), bodies.name(session))
        return reply(_describe(found), step=found.step)

    @model_route(blueprint, "DELETE", "/sessions/<session>")
    def delete(model: str, version: str | None, session: str) -> Response:
        engine.delete(engine.repository.model(model, version), bodies.name(session))
        return Response(status=204)

    @model_route(blueprint, "POST", "/sessions/<session>:predict")
    def predict(model: str, version: str | None, session: str) -> Response:
        found = engine.repository.model(model, version)
        step = step_of(found, bodies.name(session), read(bodies.Predict).instances)
        step.expected = if_match()
        engine.run([step])
        return reply(answer_of(step), step=step.number)

    @model_route(blueprint, "POST", "/sessions:predict")
    def predict_many(model: str, version: str | None) -> Response:
        found = engine.repository.model(model, version)
        outcomes = run_many(engine, found, read(bodies.PredictMany).sessions)
        return reply({"sessions": {session: entry_of(outcome) for session, outcome in outcomes.items()}})

    return blueprint


def if_match() -> int | None:
    """Return the step that `If-Match` names; None without one, or with `*`.

    Raises:
        InvalidInputError: it is not the ETag of a session.

    """
    given = request.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    step = given.strip().removeprefix('"').removesuffix('"')
    if not (step.isascii() and step.isdecimal()):
        raise InvalidInputError(f'If-Match: {given:.80} is not the ETag of a session, such as "41"')
    return int(step)


def run_many(engine: Engine, model: Model, asked: Mapping[str, Any]) -> dict[str, Step | CarryoverError]:
    """Run one step of each of many sessions; each succeeds or fails on its own."""
    if not asked:
        raise InvalidInputError("sessions is empty: it takes at least one session's instances")
    outcomes: dict[str, Step | CarryoverError] = {}
    for session, values in asked.items():
        try:
            if not isinstance(values, list):
                raise InvalidInputError(f"sessions.{session:.140} must be a list of instances")
            outcomes[session] = step_of(model, bodies.name(session), values)
        except CarryoverError as error:
            outcomes[session] = error
    steps = [outcome for outcome in outcomes.values() if isinstance(outcome, Step)]
    if steps:
        engine.run(steps)
    return outcomes


def step_of(model: Model, session: str, values: list[Any]) -> Step:
    """Return the step that a body's instances ask for."""
    return Step(model, session, instances(model.inputs, values))


def answer_of(step: Step) -> dict[str, Any]:
    """Return a committed step's answer; raise its error where it failed."""
    done = step.answer()
    model = done.model
    values = predictions(model.outputs, done.outputs, model.labels)
    return {"predictions": values, "session": done.session, "step": done.number}


def entry_of(outcome: Step | CarryoverError) -> dict[str, Any]:
    """Return what stands in an answer of several steps for one of them: its answer, or its problem."""
    error = outcome.error if isinstance(outcome, Step) else outcome
    if error is not None:
        return problems.problem(error)
    return answer_of(cast("Step", outcome))


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
