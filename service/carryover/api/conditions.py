"""The preconditions of a request, read once for every route.

Sources: RFC 9110, section 13.1; draft-ietf-httpapi-idempotency-key-header-07.
"""

import re
from dataclasses import replace
from urllib.parse import parse_qs

from carryover.api.inbound import Inbound
from carryover.engine.operations import UNCONDITIONAL, Preconditions
from carryover.errors import InvalidInputError
from carryover.store import IdempotencyKey

MAX_KEY_LENGTH = 255
PARAMETERS = {"if_match": "if-match", "if_none_match": "if-none-match"}
"""Parameters in the query of a WebSocket, and the headers that they stand for."""
_SAFE = ("GET", "HEAD")
_STEP = re.compile(r'"[0-9]+"|[0-9]+')
IF_MATCH = rf"^\s*(\*|(\s*,)*\s*({_STEP.pattern})\s*(,\s*({_STEP.pattern})?\s*)*)$"
"""What an `If-Match` is, as a JSON schema has it."""
_STEP_DIGITS = 19
"""Digits of the largest step that a session can have: a longer number matches none."""


def read(inbound: Inbound, body: bytes | None = None) -> Preconditions:
    """Return what must hold for a request to be carried out.

    `body` is what an idempotency key stands for, where that is not the bytes that came: the same, compressed twice, may
    differ.

    Raises:
        InvalidInputError: a header, `migrate` or `create` is malformed.

    """
    headers = inbound.headers
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    given = headers.get("idempotency-key")
    if inbound.method in _SAFE:
        # There is nothing to repeat, and If-None-Match is a cache's question.
        return UNCONDITIONAL if match is None else Preconditions(_steps(match.strip()), exists=True)
    if match is None and none_match is None and given is None and not inbound.query:
        return UNCONDITIONAL
    if none_match is not None and none_match.strip() != "*":
        raise InvalidInputError(f"If-None-Match: {none_match:.80} is not supported; expected *")
    return Preconditions(
        steps=None if match is None else _steps(match.strip()),
        exists=match is not None,
        absent=none_match is not None,
        key=None if given is None else header_key(given, inbound.path, inbound.body if body is None else body),
        migrate=flag(inbound.query, "migrate"),
        create=flag(inbound.query, "create"),
    )


def of_websocket(inbound: Inbound) -> Preconditions:
    """Return what must hold for the steps of a WebSocket, whose query may hold what pages cannot send as headers.

    Raises:
        InvalidInputError: a header, or a parameter, is malformed.

    """
    given = parse_qs(inbound.query, keep_blank_values=True, max_num_fields=None)
    named = {name: given[parameter][0] for parameter, name in PARAMETERS.items() if parameter in given}
    return read(replace(inbound, method="POST", headers={**inbound.headers, **named}))


def header_key(given: str, path: str, body: bytes) -> IdempotencyKey:
    """Return the key that an `Idempotency-Key` header names, quoted or not."""
    return idempotency_key(given.strip().removeprefix('"').removesuffix('"'), path, body)


def idempotency_key(key: str, path: str, body: bytes) -> IdempotencyKey:
    """Return the key of the request to this path with this body.

    Raises:
        InvalidInputError: it is empty, too long, or not printable.

    """
    if not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise InvalidInputError(
            f"idempotency key {key!r:.80} is invalid; expected 1 to {MAX_KEY_LENGTH} printable ASCII characters"
        )
    return IdempotencyKey.of(key, path, body)


def _steps(match: str) -> frozenset[int] | None:
    """The steps that an `If-Match` lists; None for any."""
    if match == "*":
        return None
    listed = [tag.strip() for tag in match.split(",")]
    tags = [tag for tag in listed if tag]  # RFC 9110, section 5.6.1: empty elements of a list are ignored
    if not tags or not all(map(_STEP.fullmatch, tags)):
        raise InvalidInputError(
            f'If-Match: {match:.80} is not the ETag of a session; expected *, or steps such as "41"'
        )
    steps = [tag.strip('"').lstrip("0") or "0" for tag in tags]
    return frozenset(int(step) for step in steps if len(step) <= _STEP_DIGITS)


def flag(query: str, name: str) -> bool:
    """Return a parameter of the query that is true or false, which it is by default.

    Raises:
        InvalidInputError: it is neither.

    """
    if not query:
        return False
    values = parse_qs(query, keep_blank_values=True, max_num_fields=None).get(name, ["false"])
    if values[0] not in ("true", "false"):
        raise InvalidInputError(f"{name}={values[0]!r:.80} is invalid; expected true or false")
    return values[0] == "true"
