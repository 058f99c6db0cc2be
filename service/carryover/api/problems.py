"""Errors as RFC 9457 problem details, with the sentence repeated in `error` for Open Inference Protocol clients.

Those read it from `application/json` only: under `/v2` an error is that, with the same members.
"""

import re
from dataclasses import replace
from http import HTTPStatus
from typing import NotRequired

from typing_extensions import TypedDict

from carryover import errors
from carryover.api.json import encode
from carryover.api.response import JSON, Response

STATUS: dict[type[errors.CarryoverError], HTTPStatus] = {
    errors.InvalidInputError: HTTPStatus.BAD_REQUEST,
    errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.ConflictError: HTTPStatus.CONFLICT,
    errors.GoneError: HTTPStatus.GONE,
    errors.PreconditionFailedError: HTTPStatus.PRECONDITION_FAILED,
    errors.SlowClientError: HTTPStatus.REQUEST_TIMEOUT,
    errors.BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.LimitExceededError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.UpgradeRequiredError: HTTPStatus.UPGRADE_REQUIRED,
    errors.NonFiniteStateError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.KeyReusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.StateTooLargeError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InputRejectedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnsupportedError: HTTPStatus.NOT_IMPLEMENTED,
    errors.OverloadedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ForwardTimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelFailedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.CarryoverError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

PROBLEM = "application/problem+json"
_CHALLENGE = 'Bearer realm="carryover"'
_UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"))
_MAX_SENTENCE = 1000
_UNKNOWN = "the service failed unexpectedly; its log says more"


class Problem(TypedDict):
    """Problem details; `step` is the session's, where a precondition named another."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    request_id: str
    step: NotRequired[int]


def problem(error: errors.CarryoverError, request_id: str) -> Problem:
    """Return the problem details of a request that failed with an error."""
    status = status_of(type(error))
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
    details = _details(f"urn:carryover:{kind}", status, str(error), request_id)
    if isinstance(error, errors.StepMismatchError):
        details["step"] = error.step
    return details


def status_of(kind: type[errors.CarryoverError]) -> HTTPStatus:
    """Return the status of a response to a request that failed with an error of this class."""
    return next(STATUS[cls] for cls in kind.__mro__ if cls in STATUS)


def media_type(path: str) -> str:
    """Return the media type of problems in responses to requests for `path`."""
    return JSON if path == "/v2" or path.startswith("/v2/") else PROBLEM


def malformed(status: int, reason: str, request_id: str) -> bytes:
    """Return, as JSON, the problem details of what has not become a request; `reason` is the server's."""
    sentence = f"this is not an HTTP request that the service reads: {' '.join(reason.split())}" if reason else _UNKNOWN
    return encode(_details("about:blank", HTTPStatus(status), f"{sentence:.400}", request_id))


def response(error: errors.CarryoverError, path: str, request_id: str) -> Response:
    """Return the response to a request for `path` that failed with an error of the service's own."""
    answer = _response(problem(error, request_id), path)
    if isinstance(error, (errors.UnavailableError, errors.KeyInUseError)):
        return replace(answer, headers=(("Retry-After", str(error.retry_after)),))
    if isinstance(error, errors.UnauthorizedError):
        challenge = f'{_CHALLENGE}, error="invalid_token"' if error.given else _CHALLENGE
        return replace(answer, headers=(("WWW-Authenticate", challenge),))
    if isinstance(error, errors.StepMismatchError):
        return replace(answer, step=error.step)
    if isinstance(error, errors.UpgradeRequiredError):
        return replace(answer, headers=_UPGRADE)
    return answer


def of_status(status: HTTPStatus, sentence: str, path: str, request_id: str) -> Response:
    """Return the response to a request for `path` that HTTP itself has a status for."""
    return _response(_details("about:blank", status, sentence, request_id), path)


def unexpected(path: str, request_id: str) -> Response:
    """Return the response to a request for `path` that failed in a way nobody has thought of."""
    return of_status(HTTPStatus.INTERNAL_SERVER_ERROR, _UNKNOWN, path, request_id)


def _details(kind: str, status: HTTPStatus, sentence: str, request_id: str) -> Problem:
    if len(sentence) > _MAX_SENTENCE:  # what a client has sent may be quoted in it
        sentence = f"{sentence[:_MAX_SENTENCE]}…"
    return Problem(
        type=kind, title=status.phrase, status=int(status), detail=sentence, error=sentence, request_id=request_id
    )


def _response(details: Problem, path: str) -> Response:
    return Response(encode(details), details["status"], media_type=media_type(path))
