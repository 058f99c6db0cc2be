"""The model repository: what is in it, and reading it again.

Source: Triton's model repository extension. This service serves all that is in its folders, so that loading a model is
reading the folders again, for all workers, and unloading one is that too, once its folder has been taken away.
"""

import re

from carryover.api.inbound import Inbound
from carryover.api.json import Body, by_size, parse, reply
from carryover.api.response import Response
from carryover.api.v2.encodings import decoded_body
from carryover.api.v2.schemas import Index, IndexEntry, Load, LoadParameters
from carryover.engine import Engine
from carryover.errors import ConfigurationError, InvalidInputError, NotFoundError, UnsupportedError
from carryover.runtime.manifest import MODEL_NAME
from carryover.threads import run_in_thread


def index(engine: Engine, inbound: Inbound) -> Response:
    """List the model repository."""
    asked = _body(inbound, Index)
    return reply(_index(engine, ready=bool(asked.ready)))


def load(engine: Engine, inbound: Inbound) -> Response:
    """Read the model repository again, once the named model is known to load."""
    model = inbound.parameters["model"]
    asked = _body(inbound, Load).parameters or LoadParameters()
    if asked.config is not None or asked.model_extra:
        raise UnsupportedError(
            f"failed to load {model!r:.80}: this service takes a model's manifest and files from its folder in the "
            "model repository only, and none from a request"
        )
    _probe(engine, model)
    engine.reload()
    return _done()


def unload(engine: Engine, inbound: Inbound) -> Response:
    """Read the model repository again, once the named model's folder has been removed."""
    model = inbound.parameters["model"]
    _body(inbound, Load)
    if re.fullmatch(MODEL_NAME, model) is None:
        raise InvalidInputError(f"failed to unload {model!r:.80}: no model can have this name")
    if model in engine.repository.folders():
        raise UnsupportedError(
            f"failed to unload {model!r:.80}: this service serves every model whose folder is in the model "
            "repository; take the folder away first"
        )
    if any(served.name == model for served in engine.repository):
        engine.reload()
    return _done()


def _body(inbound: Inbound, model: type[Body]) -> Body:
    data = decoded_body(inbound) or b"{}"
    return by_size(data, lambda: parse(model, data))


def _probe(engine: Engine, model: str) -> None:
    """Try to load a model.

    Raises:
        InvalidInputError: it does not load.

    """
    try:
        # It takes its time; torch and the file system let the worker go on meanwhile.
        run_in_thread(lambda: engine.repository.probe(model))
    except NotFoundError:
        raise InvalidInputError(
            f"failed to load {model!r:.80}, failed to poll from model repository: it has no folder of this name"
        ) from None
    except ConfigurationError as error:
        raise InvalidInputError(f"failed to load {model!r:.80}, {error}") from None


def _done() -> Response:
    return Response(media_type=None)


def _index(engine: Engine, *, ready: bool) -> list[IndexEntry]:
    repository = engine.repository
    reasons = repository.reasons()
    served = {model.name: model for model in repository}
    entries = [
        IndexEntry(name=model.name, version=version, state="READY", reason=reasons.get(model.name, ""))
        for model in served.values()
        for version in model.versions
    ]
    if ready:
        return entries
    return entries + [
        IndexEntry(name=name, state="UNAVAILABLE", reason=reasons.get(name, "not loaded yet"))
        for name in repository.folders()
        if name not in served
    ]
