"""The bodies of `/v1`: requests as pydantic models, responses as typed dicts."""

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, WithJsonSchema
from typing_extensions import TypedDict

from carryover.api.names import PATTERN, pydantic_name
from carryover.api.problems import Problem

MAX_TTL = 10 * 365 * 24 * 3600
"""The longest time to live of a session, in seconds."""


_NAME = {"type": "string", "pattern": PATTERN}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Predict(_Body):
    """One call of a model; in a session, the instances are consecutive time steps."""

    instances: list[Any]


class CreateSession(_Body):
    """A session to create: its name and time to live in seconds, both optional."""

    session: Annotated[str, AfterValidator(pydantic_name), WithJsonSchema(_NAME)] | None = None
    ttl: Annotated[StrictInt, Field(ge=1, le=MAX_TTL)] | None = None


class Line(Predict):
    """One line of a stream."""

    idempotency_key: str | None = None


class Nothing(_Body):
    """An empty object."""


class PredictMany(_Body):
    """One step of each of many sessions: instances by session name."""

    sessions: dict[str, Any]


class Accumulate(_Body):
    """Values to add to an accumulator, nested in any way."""

    values: list[Any]


class Predictions(TypedDict):
    """Outputs, one entry an instance."""

    predictions: Any


class StepPredictions(TypedDict):
    """A committed step's outputs; `step` is the session's after it, and `version` the model's that ran."""

    predictions: Any
    session: str
    step: int
    version: str


class ManySteps(TypedDict):
    """For each session its step, or its problem."""

    sessions: dict[str, StepPredictions | Problem]


class TensorResource(TypedDict):
    """A parameter or buffer; `datatype` and `shape` are null of a buffer that is None."""

    name: str
    datatype: str | None
    shape: tuple[int, ...] | None


class FrozenBufferResource(TensorResource):
    """A buffer that inference only reads, with the SHA-256 of its bytes."""

    sha256: str


class TensorSpecResource(TypedDict):
    """An input or output; -1 stands for an axis that varies. An `optional` input may be left out."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: NotRequired[bool]


class ModelResource(TypedDict):
    """A model, with its default version."""

    name: str
    ready: bool
    version: str
    versions: list[str]
    fingerprint: str
    stateful: bool
    inputs: list[TensorSpecResource]
    outputs: list[TensorSpecResource]
    labels: NotRequired[tuple[str, ...]]
    parameters: list[TensorResource]
    frozen_buffers: list[FrozenBufferResource]
    state_buffers: list[TensorResource]


class ModelList(TypedDict):
    """What is served."""

    models: list[ModelResource]


class SessionResource(TypedDict):
    """A session; times are RFC 3339, `ttl` is in seconds."""

    session: str
    model: str
    version: str
    step: int
    created: str
    last_used: str
    expires: str
    ttl: int
    state: list[TensorResource]


class Summary(TypedDict):
    """A session or accumulator in a list: times are RFC 3339, `ttl` is in seconds, `bytes` the size of its state."""

    version: str
    step: int
    created: str
    last_used: str
    expires: str
    ttl: int
    bytes: int


class SessionSummary(Summary):
    """A session in a list."""

    session: str


class AccumulatorSummary(Summary):
    """An accumulator in a list."""

    accumulator: str


class SessionPage(TypedDict):
    """Some sessions; `next` is the cursor of the page that follows."""

    sessions: list[SessionSummary]
    next: NotRequired[str]


class AccumulatorPage(TypedDict):
    """Some accumulators; `next` is the cursor of the page that follows."""

    accumulators: list[AccumulatorSummary]
    next: NotRequired[str]


class Count(TypedDict):
    """How many sessions or accumulators there are, and the bytes of their states; `next` as in a page."""

    count: int
    bytes: int
    next: NotRequired[str]


class Deleted(TypedDict):
    """How many sessions or accumulators were deleted; `next` as in a page."""

    deleted: int
    next: NotRequired[str]


class Classified(TypedDict):
    """What a classifier predicts of one instance: a label, and the probability of each."""

    label: Any
    probabilities: Any


class Totals(TypedDict):
    """An accumulator's totals: between name and step the outputs of its model, here of the one that is shipped."""

    accumulator: str
    count: int
    sum: float
    mean: float | None
    minimum: float | None
    maximum: float | None
    step: int
