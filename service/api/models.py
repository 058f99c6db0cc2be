"""`/v1/models`: what is served, and predictions without a session."""

from typing import Any

from flask import Blueprint, Response

from service.api import bodies
from service.api.json import read, reply
from service.api.routing import model_route
from service.engine import Engine
from service.model.manifest import TensorSpec
from service.model.repository import Model
from service.model.tensors import instances, predictions
from service.model.version import TensorInfo


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
        inputs = instances(found.inputs, read(bodies.Predict).instances)
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
