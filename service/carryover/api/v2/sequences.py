"""Sequences: calls that belong together, as sessions of the same name.

Source: Triton's sequence extension.
"""

from collections.abc import Mapping

from carryover.api.v1.schemas import name
from carryover.api.v2.schemas import InferParameters
from carryover.engine import Step
from carryover.errors import CarryoverError, GoneError, InvalidInputError, NotFoundError
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model


def step_of(model: Model, parameters: InferParameters, inputs: Mapping[str, Array], ttl: int) -> Step | None:
    """Return the step that a request asks for; None where it belongs to no sequence, or the model keeps no state.

    `ttl` is that of a sequence that begins, in seconds.

    Raises:
        InvalidInputError: a sequence is started or ended without its name, or the name is none that a session may have.

    """
    sequence, start = parameters.sequence, parameters.sequence_start
    if not model.stateful:
        return None
    if not sequence:
        if start or parameters.sequence_end:
            raise InvalidInputError(
                f"inference request to model '{model.name}' must specify a non-zero or non-empty correlation ID: "
                "sequence_start and sequence_end go with a sequence_id"
            )
        return None
    return Step(model, name(sequence), inputs, start=ttl if start else None, end=parameters.sequence_end)


def explained(step: Step) -> CarryoverError | None:
    """Return a step's error, in Triton's words where that is what a client of the protocol looks for."""
    if isinstance(step.error, (NotFoundError, GoneError)):
        return InvalidInputError(
            f"inference request for sequence {step.session} to model '{step.model.name}' must specify the START flag "
            "on the first request of the sequence"
        )
    return step.error
