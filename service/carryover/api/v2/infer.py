"""`/v2/models/{model}/infer`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carryover.api import conditions, names
from carryover.api.inbound import Inbound
from carryover.api.json import by_size, parse
from carryover.api.perform import perform
from carryover.api.response import JSON, OCTETS, Response
from carryover.api.v2 import sequences
from carryover.api.v2.encodings import compressed, decoded_body
from carryover.api.v2.models import find
from carryover.api.v2.outputs import encode_response, requested
from carryover.api.v2.schemas import Infer, InferParameters, InferResponse, Output
from carryover.api.v2.tensors import inputs_of, raw_input_of
from carryover.engine import Engine, Operation
from carryover.engine.operations import Prediction
from carryover.errors import CarryoverError, InvalidInputError
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model

HEADER_LENGTH = "Inference-Header-Content-Length"
_DIGITS = 20


def infer(engine: Engine, inbound: Inbound) -> Response:
    """Run a model, in a sequence or without one."""
    model, body = find(engine, inbound), decoded_body(inbound)
    length = inbound.headers.get(HEADER_LENGTH.lower())
    if model.mixed and (session := by_size(body, lambda: _sequence(body, length))):
        model = engine.version_of(model, names.checked(session))
    asked = by_size(body, lambda: _Asked.read(model, body, length))
    preconditions = conditions.read(inbound, body)
    step = sequences.step_of(model, asked.parameters, asked.inputs, engine.ttl, preconditions)
    if step is None:
        return compressed(perform(engine, inbound, Prediction(model, "", asked.inputs), asked.predicted), inbound)
    inbound.session = step.session
    try:
        return compressed(perform(engine, inbound, step, asked.stepped), inbound)
    except CarryoverError as error:
        raise sequences.explained(error, step) from None


@dataclass(slots=True)
class _Asked:
    """An inference request whose tensors and outputs fit the model."""

    model: Model
    id: str | None
    parameters: InferParameters
    inputs: Mapping[str, Array]
    outputs: list[Output]

    @classmethod
    def read(cls, model: Model, data: bytes, header_length: str | None) -> "_Asked":
        length = _json_length(header_length, len(data))
        if length == 0:
            return cls(model, None, InferParameters(), raw_input_of(model, data), requested(model, [], binary=True))
        length = length or len(data)
        body = parse(Infer, data if length == len(data) else data[:length])
        parameters = body.parameters or InferParameters()
        inputs = inputs_of(model, body.inputs, data, length)
        outputs = requested(model, body.outputs or [], binary=bool(parameters.binary_data_output))
        return cls(model, body.id, parameters, inputs, outputs)

    def predicted(self, operation: Operation) -> Response:
        """Return the response to a prediction without a sequence."""
        return self._response(operation, None)

    def stepped(self, operation: Operation) -> Response:
        """Return the response to a committed step."""
        return self._response(operation, {"sequence_id": self.parameters.sequence_id, "step": operation.step})

    def _response(self, operation: Operation, parameters: dict[str, Any] | None) -> Response:
        version = operation.version or self.model.default
        head = InferResponse(model_name=self.model.name, model_version=version.version)
        if self.id is not None:
            head["id"] = self.id
        if parameters:
            head["parameters"] = parameters
        length, body = encode_response(head, self.model, self.outputs, version.outputs, operation.outputs)
        return Response(
            body,
            step=operation.step if parameters else None,
            media_type=OCTETS if length else JSON,
            headers=((HEADER_LENGTH, str(length)),) if length else (),
        )


def _sequence(data: bytes, header_length: str | None) -> str:
    """The sequence that a request goes on with; empty where there is none, or it starts one."""
    length = _json_length(header_length, len(data))
    parameters = (parse(Infer, data[:length]).parameters if length != 0 else None) or InferParameters()
    return "" if parameters.sequence_start else parameters.sequence or ""


def _json_length(given: str | None, size: int) -> int | None:
    """How many bytes of a body of this size are JSON; None where its client does not say."""
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= _DIGITS):
        raise InvalidInputError(f"Unable to parse {HEADER_LENGTH}, got: {given:.40}")
    if int(given) > size:
        raise InvalidInputError(f"inference header size should be in range (0, {size}), got: {given}")
    return int(given)
