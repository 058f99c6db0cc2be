"""`/v1/models`: what is served, and predictions without a session."""

from carryover.api.inbound import Inbound
from carryover.api.json import reply
from carryover.api.perform import perform
from carryover.api.response import Response
from carryover.api.v1.instances import predictions_of, read_instances
from carryover.api.v1.schemas import (
    FrozenBufferResource,
    ModelList,
    ModelResource,
    Predictions,
    TensorResource,
    TensorSpecResource,
)
from carryover.engine import Engine, Operation
from carryover.engine.operations import Prediction
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.repository import Model
from carryover.runtime.version import TensorInfo


def find(engine: Engine, inbound: Inbound) -> Model:
    """Return the model, or the version of it, that a request's path names.

    Raises:
        NotFoundError: there is none.

    """
    return engine.repository.model(inbound.parameters["model"], inbound.parameters.get("version"))


def read_by(engine: Engine, model: Model, session: str) -> Model:
    """Return the model that says how a request of a session is read: of one whose versions differ, the session's."""
    return engine.version_of(model, session) if model.mixed else model


def index(engine: Engine, _: Inbound) -> Response:
    """List the models."""
    return reply(ModelList(models=[describe(model) for model in engine.repository]))


def show(engine: Engine, inbound: Inbound) -> Response:
    """Describe a model."""
    return reply(describe(find(engine, inbound)))


def predict(engine: Engine, inbound: Inbound) -> Response:
    """Run a model from its initial state and keep nothing."""
    model = find(engine, inbound)
    return perform(engine, inbound, Prediction(model, "", read_instances(model.inputs, inbound)), _predicted)


def tensor(info: TensorInfo) -> TensorResource:
    """Return a parameter or buffer as JSON has it."""
    return TensorResource(name=info.name, datatype=info.datatype, shape=info.shape)


def _predicted(operation: Operation) -> Response:
    return reply(Predictions(predictions=predictions_of(operation)))


def describe(model: Model) -> ModelResource:
    """Return what a model is, as JSON has it."""
    version = model.default
    digests = version.frozen_digests()
    resource = ModelResource(
        name=model.name,
        ready=True,
        version=version.version,
        versions=list(model.versions),
        fingerprint=version.fingerprint.hex(),
        stateful=version.stateful,
        inputs=[_spec(spec) for spec in model.inputs],
        outputs=[_spec(spec) for spec in model.outputs],
        parameters=[tensor(info) for info in version.parameters()],
        frozen_buffers=[
            FrozenBufferResource(**tensor(info), sha256=digests[info.name]) for info in version.frozen_buffers()
        ],
        state_buffers=[tensor(info) for info in version.state_buffers()],
    )
    if model.labels:
        resource["labels"] = model.labels
    return resource


def _spec(spec: TensorSpec) -> TensorSpecResource:
    resource = TensorSpecResource(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)
    if spec.optional:
        resource["optional"] = True
    return resource
