"""What the server is, and what each model is: readiness, metadata, configuration."""

from carryover import __version__
from carryover.api.inbound import Inbound
from carryover.api.json import reply
from carryover.api.response import Response
from carryover.api.v2.models import find
from carryover.api.v2.schemas import (
    ConfigTensor,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    SequenceBatching,
    SequenceState,
    ServerMetadata,
    TensorMetadata,
)
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


def server(_: Engine, __: Inbound) -> Response:
    """Say what the server is."""
    return reply(ServerMetadata(name=NAME, version=__version__, extensions=EXTENSIONS))


def model(engine: Engine, inbound: Inbound) -> Response:
    """Say what a model is."""
    found = find(engine, inbound)
    return reply(
        ModelMetadata(
            name=found.name,
            versions=list(found.versions),
            platform=PLATFORM,
            inputs=[_tensor(spec) for spec in found.inputs],
            outputs=[_tensor(spec) for spec in found.outputs],
            properties={
                "stateful": "true" if found.default.stateful else "false",
                "fingerprint": found.default.fingerprint.hex(),
            },
        )
    )


def ready(engine: Engine, inbound: Inbound) -> Response:
    """Say whether a model is served: what is in the repository is loaded."""
    return reply(ModelReady(name=find(engine, inbound).name, ready=True))


def config(engine: Engine, inbound: Inbound) -> Response:
    """Return a model's configuration. Its shapes are whole ones: without `max_batch_size`, no axis is added to them."""
    return reply(_config(find(engine, inbound), engine.ttl))


def _config(found: Model, ttl: int) -> ModelConfig:
    version = found.default
    described = ModelConfig(
        name=found.name,
        platform=PLATFORM,
        backend=NAME,
        version_policy={"specific": {"versions": [int(known) for known in found.versions]}},
        max_batch_size=0,
        input=[_dims(spec) for spec in found.inputs],
        output=[ConfigTensor(**_dims(spec), label_filename="") for spec in found.outputs],
        default_model_filename="",
        parameters={"version": {"string_value": version.version}},
    )
    if version.stateful:
        described["sequence_batching"] = _sequences(version.state_buffers(), ttl)
    return described


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)


def _dims(spec: TensorSpec) -> ConfigTensor:
    return ConfigTensor(name=spec.name, data_type=f"TYPE_{spec.datatype.name}", dims=spec.shape)


def _sequences(buffers: list[TensorInfo], ttl: int) -> SequenceBatching:
    return SequenceBatching(
        max_sequence_idle_microseconds=ttl * 1_000_000,
        oldest={},
        state=[
            SequenceState(
                input_name=buffer.name,
                output_name=buffer.name,
                data_type=f"TYPE_{buffer.datatype}" if buffer.datatype in Datatype.__members__ else "TYPE_INVALID",
                dims=buffer.shape or (),
            )
            for buffer in buffers
        ],
    )
