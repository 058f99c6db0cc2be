"""The bodies of the protocol. Fields that they do not name are left to other servers, and ignored."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, StrictBool, StrictInt, StrictStr

_LARGEST_ID = 2**64 - 1


def _sequence(value: object) -> object:
    if isinstance(value, str) or (type(value) is int and 0 <= value <= _LARGEST_ID):
        return value
    raise ValueError(f"a sequence_id is a string, or a whole number from 0 to {_LARGEST_ID}")


class InferParameters(BaseModel):
    """What may be said of a whole request: the sequence that it belongs to, and how outputs are to come."""

    sequence_id: Annotated[Any, BeforeValidator(_sequence)] = ""
    sequence_start: StrictBool = False
    sequence_end: StrictBool = False
    binary_data_output: StrictBool = False

    @property
    def sequence(self) -> str:
        """The session that the sequence is; empty where there is none."""
        return "" if self.sequence_id == 0 else str(self.sequence_id)


class InputParameters(BaseModel):
    """What may be said of an input: how many bytes it has, after the JSON."""

    binary_data_size: Annotated[StrictInt, Field(ge=0)] | None = None
    shared_memory_region: Any = None


class Input(BaseModel):
    """An input tensor."""

    name: StrictStr
    shape: list[Annotated[StrictInt, Field(ge=0)]]
    datatype: StrictStr
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(BaseModel):
    """What may be said of an output: whether it is to come as bytes, and as so many of its best classes."""

    binary_data: StrictBool | None = None
    classification: Annotated[StrictInt, Field(ge=0)] = 0
    shared_memory_region: Any = None


class Output(BaseModel):
    """An output that is asked for."""

    name: StrictStr
    parameters: OutputParameters = OutputParameters()


class Infer(BaseModel):
    """An inference request."""

    id: StrictStr | None = None
    parameters: InferParameters = InferParameters()
    inputs: list[Input]
    outputs: list[Output] = []


class Index(BaseModel):
    """What the index of the model repository is to hold."""

    ready: StrictBool = False


class LoadParameters(BaseModel):
    """What may be said of a model to load; any other name is of a file that is to be put in its folder."""

    config: Any = None
    model_config = {"extra": "allow"}


class Load(BaseModel):
    """A model to load or unload."""

    parameters: LoadParameters = LoadParameters()
