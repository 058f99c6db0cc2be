"""What the server is, and what each model is: readiness, metadata, configuration."""

from typing import Any

from flask import Blueprint, Response

from carryover import __version__
from carryover.api.json import reply
from carryover.api.routing import model_route
from carryover.api.v2.models import ROOT, find
from carryover.engine import Engine
from carryover.runtime.datatypes import Datatype
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.repository import Model
from carryover.runtime.version import TensorInfo

NAME = "carryover"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "sequence",
    "sequence(string_id)",
    "statistics",
)
PLATFORM = "pytorch_statedict"


def routes(engine: Engine) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("metadata", __name__)

    @blueprint.get("/v2")
    @blueprint.get("/v2/")
    def server() -> Response:
        return reply({"name": NAME, "version": __version__, "extensions": EXTENSIONS})

    @model_route(blueprint, "GET", "", ROOT)
    def metadata(model: str, version: str | None) -> Response:
        return reply(_metadata(find(engine, model, version)))

    @model_route(blueprint, "GET", "/ready", ROOT)
    def ready(model: str, version: str | None) -> Response:
        # What is in the repository is loaded.
        return reply({"name": find(engine, model, version).name, "ready": True})

    @model_route(blueprint, "GET", "/config", ROOT)
    def config(model: str, version: str | None) -> Response:
        return reply(_config(find(engine, model, version), engine.ttl))

    return blueprint


def _metadata(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": list(model.versions),
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
        "properties": {
            "stateful": "true" if model.stateful else "false",
            "fingerprint": model.default.fingerprint.hex(),
        },
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}


def _config(model: Model, ttl: int) -> dict[str, Any]:
    """The model's configuration, as Triton's message ModelConfig has it (protobuf/model_config.proto).

    Its shapes are whole ones: without `max_batch_size`, no axis is added to them.
    """
    version = model.default
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": NAME,
        "version_policy": {"specific": {"versions": [int(known) for known in model.versions]}},
        "max_batch_size": 0,
        "input": [_dims(spec) for spec in model.inputs],
        "output": [_dims(spec) | {"label_filename": ""} for spec in model.outputs],
        "default_model_filename": "",
        "parameters": {"version": {"string_value": version.version}},
        **({"sequence_batching": _sequences(version.state_buffers(), ttl)} if model.stateful else {}),
    }


def _dims(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype.name}", "dims": spec.shape}


def _sequences(buffers: list[TensorInfo], ttl: int) -> dict[str, Any]:
    return {
        "max_sequence_idle_microseconds": ttl * 1_000_000,
        "oldest": {},
        "state": [
            {
                "input_name": buffer.name,
                "output_name": buffer.name,
                "data_type": f"TYPE_{buffer.datatype}" if buffer.datatype in Datatype.__members__ else "TYPE_INVALID",
                "dims": buffer.shape or (),
            }
            for buffer in buffers
        ],
    }
