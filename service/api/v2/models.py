"""Finding what an address of the protocol names."""

from service.engine import Engine
from service.errors import NotFoundError
from service.model.repository import Model

ROOT = "/v2"


def find(engine: Engine, name: str, version: str | None) -> Model:
    """Return a model, or one of its versions.

    Raises:
        NotFoundError: in Triton's words.

    """
    try:
        return engine.repository.model(name, version)
    except NotFoundError:
        asked = f"{name!r:.80}"
        if version is not None:
            asked += f" version {version if version.isdecimal() else repr(version):.20}"
        raise NotFoundError(f"Request for unknown model: {asked} is not found") from None
