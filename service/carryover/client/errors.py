"""What a call can fail with."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Self

import orjson

_TEMPORARY = frozenset({
    HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
})  # fmt: skip
_KEY_IN_USE = "urn:carryover:key-in-use"
STREAM_ENDED = "urn:carryover:stream-ended"


class ClientError(Exception):
    """The root of the client's errors."""

    temporary = False
    """Whether the same request, with the same idempotency key, may succeed later; the client retries those."""
    retry_after = 0.0
    """Seconds to wait at least before that."""


class NoResponseError(ClientError):
    """The service cannot be reached, or the connection was lost; a retry with the same key is safe."""

    temporary = True


class CertificateError(NoResponseError):
    """The service's certificate is not trusted, or is of another host; a retry would not help."""

    temporary = False


class StreamOrderError(ClientError):
    """A step that had to be sent again ran after one that was sent behind it; neither is lost or doubled."""


class ProblemError(ClientError):
    """The service's problem details (RFC 9457); `step` is the session's, where the problem has one."""

    def __init__(self, status: int, details: Mapping[str, Any], retry_after: str = "") -> None:
        self.status = status
        self.type: str = details.get("type") or "about:blank"
        self.title: str = details.get("title") or ""
        self.detail: str = details.get("detail") or self.title
        self.step: int | None = details.get("step")
        self.temporary = status in _TEMPORARY or self.type == _KEY_IN_USE
        self.retry_after = float(retry_after) if retry_after.isdecimal() else 0.0
        super().__init__(f"{status}: {self.detail}")

    @classmethod
    def of_response(cls, status: int, reason: str, body: bytes, retry_after: str = "") -> Self:
        """Return the problem of a response, which may be a proxy's own and no problem document."""
        try:
            details = orjson.loads(body)
        except orjson.JSONDecodeError:
            details = None
        return cls(status, details if isinstance(details, dict) else {"title": reason}, retry_after)
