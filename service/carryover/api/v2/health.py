"""`/v2/health`, and KServe V1's `/`: whether the process lives, and whether it can serve sessions."""

from flask import Blueprint, Response

from carryover.api import problems
from carryover.api.json import reply
from carryover.engine import Engine
from carryover.errors import StoreUnavailableError


def routes(engine: Engine) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/")
    def alive() -> Response:
        # Where clients of KServe's first version ask whether the server lives.
        return reply({"status": "alive"})

    @blueprint.get("/v2/health/live")
    def live() -> Response:
        return reply({"live": True})

    @blueprint.get("/v2/health/ready")
    def ready() -> Response:
        # Models are loaded before the first request is accepted: what can be missing is the store.
        try:
            engine.store.ping()
        except StoreUnavailableError as error:
            response = reply({"ready": False, **problems.problem(error)}, 503)
            response.headers["Retry-After"] = str(error.retry_after)
            return response
        failures = engine.repository.failures
        return reply({"ready": True, **({"not_loaded": failures} if failures else {})})

    return blueprint
