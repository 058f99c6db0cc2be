"""Who may call a route: whoever has a key with its right, or anyone where there are no keys.

Source: RFC 6750, sections 2.1 and 3.
"""

import re
from base64 import urlsafe_b64decode
from urllib.parse import parse_qs

from carryover.api.inbound import Inbound
from carryover.api.route import Route, Scope
from carryover.engine import Engine
from carryover.errors import ForbiddenError, InvalidInputError, UnauthorizedError
from carryover.keys import NAME, RIGHTS, Key, Keys

HEADER = "X-API-Key"
SUBPROTOCOL = "carryover.bearer."
"""What a WebSocket's subprotocol starts with that is no protocol but a key: pages cannot send headers."""
PARAMETER = "api_key"
_SCHEME = "bearer "
_SEEN = 1024
"""Different headers whose keys are kept."""
SESSIONS = (Scope.SESSIONS, Scope.ADMIN)
"""The scopes of the routes on which an administrator may name a key in the query, under `PARAMETER`."""


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
        return _acting(engine, inbound) if route.scope in SESSIONS else engine
    if route.scope in keys.exempt:
        return engine
    given = inbound.headers.get("authorization"), inbound.headers.get("x-api-key")
    key = keys.seen.get(given) or _find(keys, inbound, *given)
    if key.expired:
        raise UnauthorizedError("the API key has expired", given=True)
    inbound.key = key.name
    _require(route, inbound, key)
    of_key = engine.of(key)
    return _acting(of_key, inbound) if PARAMETER in inbound.query and route.scope in SESSIONS else of_key


def _find(keys: Keys, inbound: Inbound, authorization: str | None, api_key: str | None) -> Key:
    """Return the key that a request has; other schemes of Authorization may be a proxy's."""
    secret = api_key
    if authorization is not None and authorization[: len(_SCHEME)].lower() == _SCHEME:
        secret = authorization[len(_SCHEME) :].strip()
    offered = inbound.headers.get("sec-websocket-protocol") if secret is None else None
    if offered is not None:
        secret = _of_subprotocols(offered)
    if secret is None:
        raise UnauthorizedError(
            f"this route requires an API key; expected Authorization: Bearer, or {HEADER}", given=False
        )
    key = keys.find(secret)
    if key is None:
        raise UnauthorizedError("the API key is unknown", given=True)
    if offered is None:  # else it is not these headers that name it
        if len(keys.seen) >= _SEEN:
            keys.seen.clear()
        keys.seen[authorization, api_key] = key
    return key


def _of_subprotocols(offered: str) -> str | None:
    """Return the key among the subprotocols that a WebSocket offers, which is in base64url there."""
    for name in map(str.strip, offered.split(",")):
        if name.startswith(SUBPROTOCOL):
            data = name.removeprefix(SUBPROTOCOL)
            try:
                return urlsafe_b64decode(data + "=" * (-len(data) % 4)).decode()
            except ValueError:
                return ""  # a key, if none that exists
    return None


def _acting(engine: Engine, inbound: Inbound) -> Engine:
    """Return the engine with the sessions of the key that an administrator names; without a name, as it is.

    Raises:
        ForbiddenError: the caller is no administrator.
        InvalidInputError: no key can have the name.

    """
    if PARAMETER not in inbound.query:
        return engine
    given = parse_qs(inbound.query, keep_blank_values=True, max_num_fields=None).get(PARAMETER)
    if given is None:
        return engine
    if engine.keys is None and not inbound.local:
        raise InvalidInputError(f"{PARAMETER} names a key, and this service has none (API_KEYS)")
    if engine.key is not None and Scope.ADMIN not in engine.key.rights:
        raise ForbiddenError(f"the API key {engine.key.name!r} lacks the right 'admin', which {PARAMETER} requires")
    if given[0] and re.fullmatch(NAME, given[0]) is None:
        raise InvalidInputError(f"{PARAMETER}={given[0]!r:.80} is invalid; expected the name of a key, or nothing")
    return engine.acting_for(given[0])


def _require(route: Route, inbound: Inbound, key: Key) -> None:
    if route.scope in RIGHTS and route.scope not in key.rights:
        raise ForbiddenError(f"the API key {key.name!r} lacks the right {route.scope.value!r}")
    model = route.model or inbound.parameters.get("model")
    if model is not None and key.models is not None and model not in key.models:
        raise ForbiddenError(f"the API key {key.name!r} is not for model {model!r:.80}")
