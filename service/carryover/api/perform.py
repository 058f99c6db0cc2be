"""Carrying out one operation: its response, or the one that was stored when the same request came before."""

from collections.abc import Callable
from typing import TypeVar

from carryover.api.inbound import Inbound
from carryover.api.response import Response
from carryover.engine import Engine, Operation

Kind = TypeVar("Kind", bound=Operation)


def perform(engine: Engine, inbound: Inbound, operation: Kind, respond: Callable[[Kind], Response]) -> Response:
    """Run the operation of a request; `respond` makes its response once it has succeeded.

    Raises:
        CarryoverError: it failed.

    """
    operation.respond = respond
    engine.run((operation,))
    inbound.batch = operation.batch
    if operation.error is not None:
        raise operation.error
    return response_of(operation, respond)


def response_of(operation: Kind, respond: Callable[[Kind], Response]) -> Response:
    """Return the response of an operation that has succeeded."""
    if operation.replay is not None:
        return Response.replay(operation.replay)
    stored = operation.response
    return stored if isinstance(stored, Response) else respond(operation)
