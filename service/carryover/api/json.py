"""JSON in and out: one parse a request, one dump a response."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from carryover.api import numbers
from carryover.api.inbound import Inbound
from carryover.api.response import JSON, Response
from carryover.errors import BodyTooLargeError, InvalidInputError, MediaTypeError
from carryover.threads import in_turns, run_in_thread

LARGE_BODY = 256 * 1024
"""Bytes of JSON that take some 10 ms to read: larger ones are read in a native thread."""
MAX_VALUES = 128 * 1024
"""The most fields and values of a large body besides long lists of numbers: the general parser reads them in one go."""
_MARKS = b",:[{"
"""What stands before each of them."""
_END = 64
"""Bytes at the end of a body, of which some are blank."""
_MANY_ERRORS = 100

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")

_WORDS = {
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "string_type": "a string",
    "int_type": "a whole number",
}


def read(inbound: Inbound, model: type[Body], *, or_nothing: bool = False) -> Body:
    """Read a request's body, a large one in a native thread.

    `or_nothing` takes an empty one for an empty object, of whatever media type.

    Raises:
        MediaTypeError: it is not called JSON.
        InvalidInputError: it is not JSON, or not what `model` describes.

    """
    data = inbound.body
    if or_nothing and not data:
        return parse(model, b"{}")
    if not is_json(inbound):
        require_media_type(inbound, JSON)
    return by_size(data, lambda: parse(model, data))


def is_json(inbound: Inbound) -> bool:
    """Whether a body is called JSON in the usual words, or nothing is said of it; `require_media_type` knows all."""
    headers = inbound.headers
    return headers.get("content-type", JSON) == JSON and "content-encoding" not in headers


def by_size(data: bytes, work: Callable[[], T]) -> T:
    """Do work that grows with a body: in a native thread, if the body is large."""
    return work() if len(data) <= LARGE_BODY else run_in_thread(work)


def parse(model: type[Body], data: bytes) -> Body:
    """Read JSON bytes as `model` describes them; in large ones, long lists of numbers become `Numbers`.

    Raises:
        InvalidInputError: with the place and what would be right.
        BodyTooLargeError: they have too many other values.

    """
    if len(data) > LARGE_BODY:
        return _of_large(model, data)
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInputError(_sentence(model, error)) from None


def _of_large(model: type[Body], data: bytes) -> Body:
    rest, found = numbers.taken(data)
    _require_few_values(rest)
    try:
        return numbers.restored(model.model_validate_json(rest), found)  # type: ignore[no-any-return]
    except ValidationError as error:
        if (count := error.error_count()) > _MANY_ERRORS:
            fields = ", ".join(map(repr, model.model_fields))
            raise InvalidInputError(
                f"the body has {count} errors, such as unknown fields; its fields are {fields}"
            ) from None
        sentence = _sentence(model, error)
        # A line and column would be those of what is left.
        raise InvalidInputError(sentence.partition(" at line ")[0] if found else sentence) from None


def _require_few_values(data: bytes) -> None:
    count = len(data) - sum(len(piece.translate(None, _MARKS)) for piece in numbers.pieces(data))
    if count > MAX_VALUES:
        if not data[-_END:].rstrip().endswith(b"}"):
            raise InvalidInputError("the body is not JSON: it does not end as an object does")
        raise BodyTooLargeError(
            f"the body has about {count} fields and values; expected at most {MAX_VALUES} besides those of long "
            "rectangular lists of numbers"
        )


def require_media_type(inbound: Inbound, *expected: str) -> None:
    """Raise unless a request's body is of one of the media types, or says nothing of it, and is not compressed.

    Raises:
        MediaTypeError: it is of another one.

    """
    encoding = inbound.headers.get("content-encoding", "identity").strip()
    if encoding.lower() not in ("", "identity"):
        raise MediaTypeError(
            f"the body is compressed; expected no Content-Encoding, got {encoding:.40}; only /v2 takes one"
        )
    given = inbound.headers.get("content-type")
    if given is None or given in expected:
        return
    media_type = given.partition(";")[0].strip().lower()
    if media_type and media_type not in expected:
        raise MediaTypeError(f"the body is of the wrong media type; expected {expected[0]}, got {media_type:.80}")


def encode(value: Any) -> bytes:
    """Dump a value that may hold arrays. JSON has no NaN and no infinity: they become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_lines(values: Iterable[Any]) -> bytes:
    """Dump values as newline-delimited JSON."""
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return b"".join([orjson.dumps(value, option=option) for value in values])


def in_parts(values: Any, part: int) -> Any:
    """Return a list or array as `encode` takes it; one of more than `part` entries as JSON, made part by part."""
    if len(values) <= part:
        return values
    starts = in_turns(range(0, len(values), part), 1)
    return orjson.Fragment(b"[" + b",".join(encode(values[start : start + part])[1:-1] for start in starts) + b"]")


def reply(value: Any, status: int = 200, step: int | None = None) -> Response:
    """Return a response of JSON; `step` becomes the ETag."""
    return Response(encode(value), status, step)


def timestamp(milliseconds: int) -> str:
    """Return a time as RFC 3339, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    kind = first["type"]
    if kind == "json_invalid":
        reason = first["msg"].removeprefix("Invalid JSON: ")
        return f"the body is not JSON: {reason}"
    if kind == "extra_forbidden":
        return f"unknown field {place!r:.80}; the fields are {', '.join(map(repr, model.model_fields))}"
    if kind == "missing":
        return f"the field {place!r} is missing"
    if kind == "too_long":
        return f"{place} is too long; expected at most {first['ctx']['max_length']} entries"
    if kind in _WORDS:
        return f"{place or 'the body'} must be {_WORDS[kind]}"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
