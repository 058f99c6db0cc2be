"""`/v1/models`: what is served, and predictions without a session."""

from typing import Any

from flask import Blueprint, Response

from carryover.api.json import read, reply
from carryover.api.routing import model_route
from carryover.api.v1 import schemas
from carryover.engine import Engine
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.repository import Model
from carryover.runtime.tensors import instances, predictions
from carryover.runtime.version import TensorInfo


def routes(engine: Engine) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("models", __name__)

    @blueprint.get("/v1/models")
    def index() -> Response:
        return reply({"models": [describe(model) for model in engine.repository]})

    @model_route(blueprint, "GET", "")
    def show(model: str, version: str | None) -> Response:
        return reply(describe(engine.repository.model(model, version)))

    @model_route(blueprint, "POST", ":predict")
    def predict(model: str, version: str | None) -> Response:
        found = engine.repository.model(model, version)
        inputs = instances(found.inputs, read(schemas.Predict).instances)
        outputs = engine.predict(found, inputs)
        return reply({"predictions": predictions(found.outputs, outputs, found.labels)})

    return blueprint


def describe(model: Model) -> dict[str, Any]:
    """Return what a model is, as JSON."""
    version = model.default
    digests = version.frozen_digests()
    return {
        "name": model.name,
        "ready": True,
        "version": version.version,
        "versions": list(model.versions),
        "fingerprint": version.fingerprint.hex(),
        "stateful": version.stateful,
        "inputs": [_spec(spec) for spec in model.inputs],
        "outputs": [_spec(spec) for spec in model.outputs],
        **({"labels": model.labels} if model.labels else {}),
        "parameters": [info(tensor) for tensor in version.parameters()],
        "frozen_buffers": [info(tensor) | {"sha256": digests[tensor.name]} for tensor in version.frozen_buffers()],
        "state_buffers": [info(tensor) for tensor in version.state_buffers()],
    }


def info(tensor: TensorInfo) -> dict[str, Any]:
    """Return a parameter or buffer as JSON."""
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}
