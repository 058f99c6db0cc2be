"""Sequences: calls that belong together, as sessions of the same name.

Source: Triton's sequence extension.
"""

from collections.abc import Mapping

from carryover.api import names
from carryover.api.v2.schemas import InferParameters
from carryover.engine.engine import require_state
from carryover.engine.operations import FirstStep, Operation, Preconditions, Step
from carryover.errors import CarryoverError, GoneError, InvalidInputError, NotFoundError
from carryover.runtime.datatypes import Array
from carryover.runtime.repository import Model


def step_of(
    model: Model, parameters: InferParameters, inputs: Mapping[str, Array], ttl: int, preconditions: Preconditions
) -> Operation | None:
    """Return the step that a request asks for; None where it belongs to no sequence.

    `ttl` is that of a sequence that starts, in seconds.

    Raises:
        InvalidInputError: the model keeps no state, a sequence is started or ended without its name, or no session can
            have the name.

    """
    sequence, start, end = parameters.sequence, parameters.sequence_start, bool(parameters.sequence_end)
    if not sequence:
        if model.stateful and (start or end):
            raise InvalidInputError(
                f"inference request to model '{model.name}' must specify a non-zero or non-empty correlation ID: "
                "sequence_start and sequence_end go with a sequence_id"
            )
        return None
    require_state(model)
    name = names.checked(sequence)
    if start:
        return FirstStep(model, name, inputs, preconditions, end=end, ttl=ttl)
    return Step(model, name, inputs, preconditions, end=end)


def explained(error: CarryoverError, step: Operation) -> CarryoverError:
    """Return a step's error, in Triton's words where that is what a client of the protocol looks for."""
    if isinstance(error, (NotFoundError, GoneError)):
        return InvalidInputError(
            f"inference request for sequence {step.session} to model '{step.model.name}' must specify the START flag "
            "on the first request of the sequence"
        )
    return error
