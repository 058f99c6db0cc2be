"""Cross-origin requests of browsers, which are allowed only to the origins that a setting lists.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol. Cookies and other credentials of the browser play no part.
"""

from collections.abc import Mapping
from typing import Any

from carryover.api.response import Headers, Response
from carryover.errors import ForbiddenError

EXPOSED = (
    "ETag", "Location", "Idempotency-Replayed", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID",
    "Inference-Header-Content-Length", "Content-Disposition", "Preference-Applied", "Server-Timing", "traceparent",
    "WWW-Authenticate",
)  # fmt: skip
"""The headers of responses that pages may read, beside the few that they always may."""
ALLOWED = (
    "Authorization", "Content-Encoding", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match",
    "Inference-Header-Content-Length", "Last-Event-ID", "Prefer", "traceparent", "tracestate", "X-API-Key",
    "X-Request-ID",
)  # fmt: skip
"""The headers of requests that pages may send."""
_PORTS = {"http": ":80", "https": ":443"}
_PREFLIGHT = (
    ("Access-Control-Allow-Headers", ", ".join(ALLOWED)),
    ("Access-Control-Max-Age", "600"),  # seconds that a browser may remember this
)


class Origins:
    """The origins whose pages may use the service; `*` among them stands for any."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed

    def require(self, environ: Mapping[str, Any]) -> None:
        """Raise if a page of another origin opens a WebSocket, which browsers let every page do (RFC 6455, 10.2).

        Raises:
            ForbiddenError: the origin is neither the service's own nor among those that may use it.

        """
        origin, host = environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST", "").lower()
        if origin is None or "*" in self._allowed or origin in self._allowed:
            return
        scheme, _, authority = origin.lower().partition("://")
        if authority != host.removesuffix(_PORTS.get(scheme, "")):
            raise ForbiddenError(
                f"the page's origin {origin!r:.200} is not that of the service; CORS_ORIGINS lists those whose pages "
                "may open a WebSocket, and a proxy must pass the Host that the page has named"
            )

    def headers(self, environ: Mapping[str, Any], response: Response) -> Headers:
        """Return what is added to the response to a request."""
        origin = environ.get("HTTP_ORIGIN")
        vary = (("Vary", "Origin"),)
        if origin is None or not ("*" in self._allowed or origin in self._allowed):
            return vary
        shown = ("Access-Control-Allow-Origin", "*" if "*" in self._allowed else origin)
        if environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            methods = [("Access-Control-Allow-Methods", value) for name, value in response.headers if name == "Allow"]
            return (*vary, shown, *methods, *_PREFLIGHT)
        return (*vary, shown, ("Access-Control-Expose-Headers", ", ".join(EXPOSED)))
