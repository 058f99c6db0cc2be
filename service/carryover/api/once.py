"""`Idempotency-Key`: a request that is carried out once, however often it is sent.

Source: draft-ietf-httpapi-idempotency-key-header-07.
"""

import struct
from collections.abc import Callable

from flask import Response, request

from carryover.api.json import content, encode
from carryover.engine import Once, Step
from carryover.errors import InvalidInputError

MAX_KEY_LENGTH = 255
_HEAD = struct.Struct("<HQ")


def from_header(body: bytes | None = None) -> Once | None:
    """Return the request as one to be carried out once, if it has the header.

    `body` is what the request holds, where that is not the bytes that came: the same, compressed twice, may differ.

    Raises:
        InvalidInputError: the key is empty, too long, or not printable.

    """
    given = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if given is None:
        return None
    return of_key(given.strip().removeprefix('"').removesuffix('"'), request.path, content() if body is None else body)


def of_key(key: str, address: str, body: bytes) -> Once:
    """Return the request to this address with this body as one to be carried out once."""
    if not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise InvalidInputError(f"idempotency key {key!r:.80} must be 1 to {MAX_KEY_LENGTH} printable ASCII characters")
    return Once.of(key, address, body)


def keep(status: int, step: int, body: bytes) -> bytes:
    """Return an answer as it is kept."""
    return _HEAD.pack(status, step) + body


def step_of(kept: bytes) -> int:
    """Return the step to which an answer that was kept belongs."""
    step: int = _HEAD.unpack_from(kept)[1]
    return step


def body_of(kept: bytes) -> bytes:
    """Return the body of an answer that was kept."""
    return kept[_HEAD.size :]


def answer(kept: bytes, *, replayed: bool) -> Response:
    """Answer as was kept."""
    status, step = _HEAD.unpack_from(kept)
    response = Response(body_of(kept), status, mimetype="application/json")
    response.headers["ETag"] = f'"{step}"'
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def renderer(answer_of: Callable[[Step], object]) -> Callable[[Step], bytes]:
    """Return what makes the answer to keep of a committed step."""
    return lambda step: keep(200, step.number, encode(answer_of(step)))


def answer_step(step: Step, answer_of: Callable[[Step], object]) -> Response:
    """Answer for a step that was run, this time or the first."""
    done = step.answer()
    if done.replay is not None:
        return answer(done.replay, replayed=True)
    return answer(done.rendered or keep(200, done.number, encode(answer_of(done))), replayed=False)
