"""The model repository: what is in it, and reading it again.

Source: Triton's model repository extension. This service serves all that is in its folders, so that loading a model is
reading the folders again, for all workers, and unloading one is that too, once its folder has been taken away.
"""

from flask import Blueprint, Response

from carryover.api.json import parse, reply
from carryover.api.v2 import schemas
from carryover.api.v2.encodings import read_body
from carryover.engine import Engine
from carryover.errors import ConfigurationError, InvalidInputError, NotFoundError, UnsupportedError
from carryover.threads import run_in_thread


def routes(engine: Engine, max_body_bytes: int) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("repository", __name__)

    @blueprint.post("/v2/repository/index")
    def index() -> Response:
        asked = parse(schemas.Index, read_body(max_body_bytes) or b"{}")
        return reply(_index(engine, ready=asked.ready))

    @blueprint.post("/v2/repository/models/<model>/load")
    def load(model: str) -> Response:
        asked = parse(schemas.Load, read_body(max_body_bytes) or b"{}").parameters
        if asked.config is not None or asked.model_extra:
            raise UnsupportedError(
                f"failed to load {model!r:.80}: this service takes a model's manifest and files from its folder in the "
                "model repository only, and none from a request"
            )
        try:
            # It takes its time; torch and the file system let the worker go on meanwhile.
            run_in_thread(lambda: engine.repository.probe(model))
        except NotFoundError:
            raise InvalidInputError(
                f"failed to load {model!r:.80}, failed to poll from model repository: it has no folder of this name"
            ) from None
        except ConfigurationError as error:
            raise InvalidInputError(f"failed to load {model!r:.80}, {error}") from None
        engine.reload()
        return Response(status=200)

    @blueprint.post("/v2/repository/models/<model>/unload")
    def unload(model: str) -> Response:
        parse(schemas.Load, read_body(max_body_bytes) or b"{}")
        if model in engine.repository.folders():
            raise UnsupportedError(
                f"failed to unload {model!r:.80}: this service serves every model whose folder is in the model "
                "repository; take the folder away first"
            )
        if any(served.name == model for served in engine.repository):
            engine.reload()
        return Response(status=200)

    return blueprint


def _index(engine: Engine, *, ready: bool) -> list[dict[str, str]]:
    repository = engine.repository
    reasons = repository.reasons()
    served = {model.name: model for model in repository}
    entries = [
        {"name": model.name, "version": version, "state": "READY", "reason": reasons.get(model.name, "")}
        for model in served.values()
        for version in model.versions
    ]
    if ready:
        return entries
    return entries + [
        {"name": name, "state": "UNAVAILABLE", "reason": reasons.get(name, "not loaded yet")}
        for name in repository.folders()
        if name not in served
    ]
