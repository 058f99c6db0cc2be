"""`/v2/health`, and KServe V1's `/`: whether the process is alive, and whether it can take steps."""

from carryover.api import problems
from carryover.api.inbound import Inbound
from carryover.api.json import reply
from carryover.api.response import Response
from carryover.api.v2.schemas import Alive, Live, NotReady, Ready
from carryover.engine import Engine
from carryover.errors import StoreUnavailableError


def alive(_: Engine, __: Inbound) -> Response:
    """Answer clients of KServe's first version, which ask here whether the server is alive."""
    return reply(Alive(status="alive"))


def live(_: Engine, __: Inbound) -> Response:
    """Answer that the process is alive."""
    return reply(Live(live=True))


def ready(engine: Engine, inbound: Inbound) -> Response:
    """Answer whether steps can be taken. Models are loaded before the first request: what may be missing is Redis."""
    try:
        engine.store.ping()
    except StoreUnavailableError as error:
        cause = engine.store.health.cause()
        said = error if cause is None else StoreUnavailableError(cause)
        unready = NotReady(**problems.problem(said, inbound.request_id), ready=False)
        return reply(unready, 503).with_headers(("Retry-After", str(error.retry_after)))
    ready = Ready(ready=True)
    if failures := engine.repository.failures:
        ready["not_loaded"] = list(failures)
    if warnings := engine.store.health.warnings:
        ready["warnings"] = list(warnings)
    return reply(ready)
