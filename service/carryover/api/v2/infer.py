"""`/v2/models/{model}/infer`."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request

from carryover.api import once
from carryover.api.json import parse
from carryover.api.routing import model_route
from carryover.api.v1.sessions import if_match
from carryover.api.v2 import schemas, sequences
from carryover.api.v2.encodings import compress, read_body
from carryover.api.v2.models import ROOT, find
from carryover.api.v2.outputs import encode_answer, requested
from carryover.api.v2.tensors import inputs_of, raw_input_of
from carryover.engine import Engine, Step
from carryover.errors import InvalidInputError
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model
from carryover.runtime.version import ModelVersion

HEADER_LENGTH = "Inference-Header-Content-Length"
_DIGITS = 20
_HEAD = struct.Struct("<I")


def routes(engine: Engine, max_body_bytes: int) -> Blueprint:
    """Return the routes. `max_body_bytes` is also what a compressed body may expand to."""
    blueprint = Blueprint("infer", __name__)

    @model_route(blueprint, "POST", "/infer", ROOT)
    def infer(model: str, version: str | None) -> Response:
        found = find(engine, model, version)
        body = read_body(max_body_bytes)
        asked = _Asked.read(found, body)
        step = sequences.step_of(found, asked.parameters, asked.inputs, engine.ttl)
        if step is None:
            return _answer(*asked.answer(found.default, engine.predict(found, asked.inputs)))
        step.expected, step.once, step.render = if_match(), once.from_header(body), asked.kept
        engine.run([step])
        if error := sequences.explained(step):
            raise error
        kept = step.replay or step.rendered
        response = _answer(*(asked.answer_of(step) if kept is None else _unpack(once.body_of(kept))))
        response.headers["ETag"] = f'"{step.number if kept is None else once.step_of(kept)}"'
        if step.replay is not None:
            response.headers["Idempotency-Replayed"] = "true"
        return response

    return blueprint


@dataclass(frozen=True, slots=True)
class _Asked:
    """An inference request whose tensors and outputs fit the model."""

    model: Model
    id: str | None
    parameters: schemas.InferParameters
    inputs: Mapping[str, Array]
    outputs: list[schemas.Output]

    @classmethod
    def read(cls, model: Model, data: bytes) -> "_Asked":
        length = _header_length(len(data))
        if length == 0:
            inputs = raw_input_of(model, data)
            return cls(model, None, schemas.InferParameters(), inputs, requested(model, [], binary=True))
        body = parse(schemas.Infer, data if length in (None, len(data)) else data[:length])
        inputs = inputs_of(model, body.inputs, data, len(data) if length is None else length)
        outputs = requested(model, body.outputs, binary=body.parameters.binary_data_output)
        return cls(model, body.id, body.parameters, inputs, outputs)

    def answer(self, version: ModelVersion, outputs: Mapping[str, Array], **parameters: Any) -> tuple[int, bytes]:
        """Return the answer: the length of its JSON where bytes follow that, else 0; and the whole."""
        head: dict[str, Any] = {"model_name": self.model.name, "model_version": version.version}
        if self.id is not None:
            head["id"] = self.id
        if parameters:
            head["parameters"] = parameters
        return encode_answer(head, self.model, self.outputs, version.outputs, outputs)

    def answer_of(self, step: Step) -> tuple[int, bytes]:
        """Return a committed step's answer."""
        version = step.version or step.model.default
        return self.answer(version, step.outputs, sequence_id=self.parameters.sequence_id, step=step.number)

    def kept(self, step: Step) -> bytes:
        """Return a committed step's answer as it is kept for repeats."""
        length, body = self.answer_of(step)
        return once.keep(200, step.number, _HEAD.pack(length) + body)


def _unpack(kept: bytes) -> tuple[int, bytes]:
    return _HEAD.unpack_from(kept)[0], kept[_HEAD.size :]


def _header_length(size: int) -> int | None:
    """How many bytes of a body of this size are JSON; None where its client does not say."""
    given = request.headers.get(HEADER_LENGTH)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= _DIGITS):
        raise InvalidInputError(f"Unable to parse {HEADER_LENGTH}, got: {given:.40}")
    if int(given) > size:
        raise InvalidInputError(f"inference header size should be in range (0, {size}), got: {given}")
    return int(given)


def _answer(length: int, body: bytes) -> Response:
    response = Response(body, mimetype="application/octet-stream" if length else "application/json")
    if length:
        response.headers[HEADER_LENGTH] = str(length)
    return compress(response)
