"""JSON in and out: one parse a request, one dump an answer."""

from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from flask import Response, current_app, request
from pydantic import BaseModel, ValidationError

from carryover.api.transport import CutShortError, whole
from carryover.errors import BodyTooLargeError, InvalidInputError, MediaTypeError

Body = TypeVar("Body", bound=BaseModel)

_JSON = [("Content-Type", "application/json")]
_WORDS = {
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "string_type": "a string",
    "int_type": "a whole number",
}


def read(model: type[Body], *, or_nothing: bool = False) -> Body:
    """Read the request's body; `or_nothing` takes an empty one for an empty object, of whatever media type.

    Raises:
        MediaTypeError: it is not called JSON.
        InvalidInputError: it is not JSON, or not what `model` describes.

    """
    environ = request.environ
    data = content(environ)
    if or_nothing and not data:
        return parse(model, b"{}")
    if environ.get("CONTENT_TYPE", "application/json") != "application/json" or "HTTP_CONTENT_ENCODING" in environ:
        require_media_type("application/json")
    return parse(model, data)


def content(environ: dict[str, Any] | None = None) -> bytes:
    """Return the request's body, read once; `environ` is that of the request, where it is at hand.

    Raises:
        BodyTooLargeError: it is over the limit, said or not.
        InvalidInputError: it ended before its end, or is malformed.

    """
    environ = request.environ if environ is None else environ
    data: bytes | None = environ.get("carryover.content")
    if data is None:
        limit = current_app.config["MAX_CONTENT_LENGTH"]
        length = int(environ.get("CONTENT_LENGTH") or limit + 1)
        if length > limit and "CONTENT_LENGTH" in environ:
            raise _too_large(limit)
        try:
            data = environ["carryover.content"] = whole(environ, length)
        except CutShortError:
            raise InvalidInputError("the body broke off before its end, or its chunks are malformed") from None
        if len(data) > limit:
            raise _too_large(limit)
        if len(data) < length <= limit:
            raise InvalidInputError(f"the body ended after {len(data)} of the {length} bytes that were announced")
    return data


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body is larger than the {limit} bytes that this service takes (MAX_BODY_BYTES)")


def parse(model: type[Body], data: bytes) -> Body:
    """Read JSON bytes as `model` describes them.

    Raises:
        InvalidInputError: with the place and what would be right.

    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInputError(_sentence(model, error)) from None


def require_media_type(*wanted: str) -> None:
    """Raise MediaTypeError unless the request's body has one of the media types, or says nothing of it, as it is."""
    encoding = request.headers.get("Content-Encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        raise MediaTypeError(
            f"the body must not be compressed: Content-Encoding {encoding:.40} is read under /v2 alone"
        )
    given = request.mimetype
    if given and given not in wanted:
        raise MediaTypeError(f"the body must be {wanted[0]}, not {given:.80}")


def encode(value: Any) -> bytes:
    """Dump a value that may hold arrays. JSON has no NaN and no infinity: they become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def reply(value: Any, status: int = 200, step: int | None = None) -> Response:
    """Answer with JSON; `step` becomes the ETag."""
    headers = _JSON if step is None else [*_JSON, ("ETag", f'"{step}"')]
    return Response(encode(value), status, headers)


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
    if kind in _WORDS:
        return f"{place or 'the body'} must be {_WORDS[kind]}"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
