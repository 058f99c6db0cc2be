"""The bodies of the protocol: requests as pydantic models, responses as typed dicts.

Fields of requests that they do not name are other servers', and ignored; null is the same as a field that is left out,
as generated clients send it.
"""

from typing import Annotated, Any, NotRequired

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from typing_extensions import TypedDict

from carryover.api.numbers import MAX_DIMENSIONS
from carryover.api.problems import Problem

_LARGEST_ID = 2**64 - 1
_LARGEST_SIZE = 2**63 - 1
MAX_TENSORS = 1024
"""The most inputs of a request, and the most outputs that it asks for."""


_SEQUENCE: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0, "maximum": _LARGEST_ID}, {"type": "null"}]
}


def _sequence(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, str) or (type(value) is int and 0 <= value <= _LARGEST_ID):
        return value
    raise ValueError(f"a sequence_id is a string, or a whole number from 0 to {_LARGEST_ID}")


class InferParameters(BaseModel):
    """What may be said of a whole request: the sequence that it belongs to, and how outputs are to come."""

    sequence_id: Annotated[Any, BeforeValidator(_sequence), WithJsonSchema(_SEQUENCE)] = ""
    sequence_start: StrictBool | None = False
    sequence_end: StrictBool | None = False
    binary_data_output: StrictBool | None = False

    @property
    def sequence(self) -> str:
        """The session that has the sequence's state; empty where there is none."""
        return "" if self.sequence_id == 0 else str(self.sequence_id)


class InputParameters(BaseModel):
    """What may be said of an input: how many bytes it has, after the JSON."""

    binary_data_size: Annotated[StrictInt, Field(ge=0)] | None = None
    shared_memory_region: Any = None


class Input(BaseModel):
    """An input tensor."""

    name: StrictStr
    shape: Annotated[list[Annotated[StrictInt, Field(ge=0, le=_LARGEST_SIZE)]], Field(max_length=MAX_DIMENSIONS)]
    datatype: StrictStr
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class OutputParameters(BaseModel):
    """What may be said of an output: whether it is to come as bytes, and as so many of its best classes."""

    binary_data: StrictBool | None = None
    classification: Annotated[StrictInt, Field(ge=0)] | None = None
    shared_memory_region: Any = None


class Output(BaseModel):
    """An output that is asked for."""

    name: StrictStr
    parameters: OutputParameters | None = None


class Infer(BaseModel):
    """An inference request."""

    id: StrictStr | None = None
    parameters: InferParameters | None = None
    inputs: Annotated[list[Input], Field(max_length=MAX_TENSORS)]
    outputs: Annotated[list[Output], Field(max_length=MAX_TENSORS)] | None = None


class Index(BaseModel):
    """What the index of the model repository is to hold."""

    ready: StrictBool | None = False


class LoadParameters(BaseModel):
    """What may be said of a model to load; any other name is of a file that is to be put in its folder."""

    model_config = ConfigDict(extra="allow")

    config: Any = None


class Load(BaseModel):
    """A model to load or unload."""

    parameters: LoadParameters | None = None


class Alive(TypedDict):
    """What KServe's first version asks of a server."""

    status: str


class Live(TypedDict):
    """Whether the process is alive."""

    live: bool


class Ready(TypedDict):
    """Whether the service can take steps.

    `not_loaded` says what is wrong with models that are not served, `warnings` what may lose sessions.
    """

    ready: bool
    not_loaded: NotRequired[list[str]]
    warnings: NotRequired[list[str]]


class NotReady(Problem):
    """Why the service cannot take steps."""

    ready: bool


class ServerMetadata(TypedDict):
    """What the server is."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(TypedDict):
    """An input or output; -1 stands for an axis that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(TypedDict):
    """What a model is."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str]


class ModelReady(TypedDict):
    """Whether a model is served."""

    name: str
    ready: bool


class OutputTensor(TypedDict):
    """An output: its values in `data`, or after the JSON."""

    name: str
    datatype: str
    shape: Any
    parameters: NotRequired[dict[str, Any]]
    data: NotRequired[Any]


class InferResponse(TypedDict):
    """The response to an inference request."""

    model_name: str
    model_version: str
    id: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]
    outputs: NotRequired[list[OutputTensor]]


class IndexEntry(TypedDict):
    """A model, or one version of it, in the repository."""

    name: str
    version: NotRequired[str]
    state: str
    reason: str


class Duration(TypedDict):
    """How often, and for how many nanoseconds in all."""

    count: int
    ns: int


class InferStatistics(TypedDict):
    """What the inference requests of a model have taken."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(TypedDict):
    """What the forwards with one number of requests have taken."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(TypedDict):
    """What a version of a model has done since the service started; `last_inference` in milliseconds since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    response_stats: dict[str, Any]
    batch_stats: list[BatchStatistics]
    memory_usage: list[Any]


class Statistics(TypedDict):
    """Statistics of all versions that were asked for."""

    model_stats: list[ModelStatistics]


class ConfigTensor(TypedDict):
    """An input, or an output, which has the name of a label file as well."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    label_filename: NotRequired[str]


class SequenceState(TypedDict):
    """A state buffer, as Triton's implicit state has it."""

    input_name: str
    output_name: str
    data_type: str
    dims: tuple[int, ...]


class SequenceBatching(TypedDict):
    """How sequences are kept."""

    max_sequence_idle_microseconds: int
    oldest: dict[str, Any]
    state: list[SequenceState]


class ModelConfig(TypedDict):
    """A model's configuration, as Triton's message ModelConfig has it (protobuf/model_config.proto)."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    default_model_filename: str
    parameters: dict[str, Any]
    sequence_batching: NotRequired[SequenceBatching]
