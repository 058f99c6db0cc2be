"""Finding the model that a path of the protocol names."""

from carryover.api.inbound import Inbound
from carryover.engine import Engine
from carryover.errors import NotFoundError
from carryover.runtime.repository import Model


def find(engine: Engine, inbound: Inbound) -> Model:
    """Return a model, or one of its versions.

    Raises:
        NotFoundError: in Triton's words.

    """
    name, version = inbound.parameters["model"], inbound.parameters.get("version")
    try:
        return engine.repository.model(name, version)
    except NotFoundError:
        asked = f"{name!r:.80}"
        if version is not None:
            asked += f" version {version if version.isdecimal() else repr(version):.20}"
        raise NotFoundError(f"Request for unknown model: {asked} is not found") from None
