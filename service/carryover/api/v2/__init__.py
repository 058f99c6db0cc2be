"""`/v2`: the Open Inference Protocol, with extensions of Triton's.

Sources: https://github.com/kserve/open-inference-protocol and, for the extensions,
https://github.com/triton-inference-server/server/tree/main/docs/protocol . Error sentences that clients know are worded
as Triton words them.
"""

from flask import Blueprint

from carryover.api.v2 import health, infer, metadata, repository, statistics
from carryover.engine import Engine


def routes(engine: Engine, max_body_bytes: int) -> list[Blueprint]:
    """Return the routes."""
    return [
        health.routes(engine),
        metadata.routes(engine),
        infer.routes(engine, max_body_bytes),
        statistics.routes(engine),
        repository.routes(engine, max_body_bytes),
    ]
