"""Errors as RFC 9457 problem details, with the sentence repeated in `error` for Open Inference Protocol clients."""

import logging
import re
from http import HTTPStatus
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from carryover import errors
from carryover.api.json import encode

STATUS: dict[type[errors.CarryoverError], HTTPStatus] = {
    errors.InvalidInputError: HTTPStatus.BAD_REQUEST,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.ConflictError: HTTPStatus.CONFLICT,
    errors.GoneError: HTTPStatus.GONE,
    errors.PreconditionFailedError: HTTPStatus.PRECONDITION_FAILED,
    errors.BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.NonFiniteStateError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.KeyReusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.StateTooLargeError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnsupportedError: HTTPStatus.NOT_IMPLEMENTED,
    errors.OverloadedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelFailedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.CarryoverError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_UNKNOWN = "the service failed in a way it does not know; its log says more"

log = logging.getLogger(__name__)


def problem(error: errors.CarryoverError) -> dict[str, Any]:
    """Return an error's problem details."""
    status = next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
    details = _details(f"urn:carryover:{kind}", status, str(error))
    if isinstance(error, errors.StepMismatchError):
        details["step"] = error.step
    return details


def malformed(status: int, reason: str) -> bytes:
    """Return, as JSON, the problem details of what has not become a request; `reason` is the server's."""
    sentence = f"this is not an HTTP request that the service reads: {' '.join(reason.split())}" if reason else _UNKNOWN
    return encode(_details("about:blank", HTTPStatus(status), f"{sentence:.400}"))


def register(app: Flask) -> None:
    """Answer every error of the application with problem details."""
    app.register_error_handler(errors.CarryoverError, _ours)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _ours(error: errors.CarryoverError) -> Response:
    response = _response(problem(error))
    if isinstance(error, (errors.UnavailableError, errors.KeyInUseError)):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.StepMismatchError):
        response.set_etag(str(error.step))
    return response


def _http(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or 500)
    match error:
        case RequestEntityTooLarge():
            detail = "the body is larger than this service takes (MAX_BODY_BYTES)"
        case MethodNotAllowed():
            detail = f"this address takes {', '.join(sorted(error.valid_methods or ()))}"
        case _ if status == HTTPStatus.NOT_FOUND:
            detail = "there is nothing at this address; the README lists what there is"
        case _:
            detail = error.description or status.description
    response = _response(_details("about:blank", status, detail))
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return response


def _unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _response(_details("about:blank", status, _UNKNOWN))


def _details(kind: str, status: HTTPStatus, sentence: str) -> dict[str, Any]:
    return {
        "type": kind,
        "title": status.phrase,
        "status": int(status),
        "detail": sentence,
        "error": sentence,
    }


def _response(details: dict[str, Any]) -> Response:
    return Response(encode(details), details["status"], mimetype="application/problem+json")
