"""Who may call a route: whoever has a key with its right, or anyone where there are no keys.

Source: RFC 6750, sections 2.1 and 3.
"""

from carryover.api.inbound import Inbound
from carryover.api.route import Route, Scope
from carryover.engine import Engine
from carryover.errors import ForbiddenError, UnauthorizedError
from carryover.keys import RIGHTS, Key

HEADER = "X-API-Key"
_SCHEME = "bearer "


def admitted(route: Route, engine: Engine, inbound: Inbound) -> Engine:
    """Return the engine as the caller may use it; a request's key is named in it.

    Raises:
        UnauthorizedError: there is no valid key.
        ForbiddenError: the key lacks the right or the model; without keys, the client is not on this machine.

    """
    keys = engine.keys
    if keys is None:
        if route.scope is Scope.ADMIN and not inbound.local:
            raise ForbiddenError(
                "without API keys (API_KEYS), this route responds only to clients on the same machine that use no proxy"
            )
        return engine
    if route.scope in keys.exempt:
        return engine
    secret = _secret(inbound)
    if secret is None:
        raise UnauthorizedError(
            f"this route requires an API key; expected Authorization: Bearer, or {HEADER}", given=False
        )
    key = keys.find(secret)
    if key is None or key.expired:
        reason = "is unknown" if key is None else "has expired"
        raise UnauthorizedError(f"the API key {reason}", given=True)
    inbound.key = key.name
    _require(route, inbound, key)
    return engine.of(key)


def _secret(inbound: Inbound) -> str | None:
    """Return the key that a request has; other schemes of Authorization may be a proxy's."""
    given = inbound.headers.get("authorization", "")
    if given[: len(_SCHEME)].lower() == _SCHEME:
        return given[len(_SCHEME) :].strip()
    return inbound.headers.get("x-api-key")


def _require(route: Route, inbound: Inbound, key: Key) -> None:
    if route.scope in RIGHTS and route.scope not in key.rights:
        raise ForbiddenError(f"the API key {key.name!r} lacks the right {route.scope.value!r}")
    model = route.model or inbound.parameters.get("model")
    if model is not None and key.models is not None and model not in key.models:
        raise ForbiddenError(f"the API key {key.name!r} is not for model {model!r:.80}")
