"""A request as handlers see it: plain values, wherever they came from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

HEADERS = (
    "accept",
    "accept-encoding",
    "authorization",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "inference-header-content-length",
    "prefer",
    "traceparent",
    "x-api-key",
    "x-request-id",
)
"""The headers that handlers may ask for."""
OF_STREAMS = (
    "connection",
    "content-length",
    "last-event-id",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
)
"""Those that only the handlers of streams may ask for."""


@dataclass(slots=True)
class Inbound:
    """A request.

    `path` and `query` are those of its URL, `parameters` what the route's path names, `headers` those of `HEADERS` that
    it has, in lower case. `body` has been read, of a route that takes one; a stream's comes in `chunks`, each of which
    waits for the client, or for a call of `wake`. `max_bytes` is what a body, decompressed, or a line of a stream may
    have. `request_id` is set before its handler is called, and so is `key`, the name of the caller's API key. `local`
    says that the client is on this machine; it is known of requests for administration only. For the log, handlers set
    the `session` that the path does not name, and `batch`, the number of requests in the forward; `trace` is the id of
    its trace.
    """

    method: str
    path: str
    query: str
    parameters: Mapping[str, str]
    headers: Mapping[str, str]
    max_bytes: int
    body: bytes = b""
    chunks: Iterator[bytes] | None = None
    wake: Callable[[], None] | None = None
    request_id: str = ""
    key: str = ""
    local: bool = False
    session: str = ""
    batch: int = 0
    trace: str = ""
