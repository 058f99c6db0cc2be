"""An HTTP client for the service, and what every response must keep to."""

import json
import select
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPMessage
from types import TracebackType
from typing import Any, Self

from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE

JSON = "application/json"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class Response:
    """A response to a request for `path`."""

    status: int
    headers: HTTPMessage
    body: bytes
    path: str

    @property
    def json(self) -> Any:
        """The body, which is JSON without the extensions NaN and Infinity."""
        return strict_json(self.body)

    def expect(self, status: int = 200) -> Any:
        """Return the body as JSON, of a response that has this status."""
        assert self.status == status, (self.status, self.body[:2000])
        if status >= 400:
            problem(self, status)
        return self.json if self.body else None


def strict_json(data: bytes) -> Any:
    """Parse JSON as RFC 8259 has it."""

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(data, parse_constant=refuse)


def problem(response: Response, status: int) -> str:
    """Return the sentence of a response that is a proper problem."""
    assert response.status == status, (response.status, response.body[:2000])
    # Clients of the Open Inference Protocol read the sentence from JSON that is called nothing else.
    media_type = JSON if response.path.startswith("/v2") else "application/problem+json"
    assert response.headers.get_content_type() == media_type
    details = response.json
    assert details["request_id"] == response.headers["X-Request-ID"]
    return sentence(details, status)


def sentence(details: Any, status: int) -> str:
    """Return the sentence of problem details that keep to RFC 9457 and tell nothing of the service's insides."""
    assert details["status"] == status, details
    assert details["title"] == HTTPStatus(status).phrase
    assert isinstance(details["type"], str)
    assert details["error"] == details["detail"]
    assert details["request_id"]
    text = details["detail"]
    assert isinstance(text, str)
    assert 10 < len(text) < 4000, text
    assert "\n" not in text
    for inside in ("Traceback", "File ", "site-packages", ".py", str(ROOT), "pydantic", "jiter", "numpy", "redis."):
        assert inside not in text, text
    return text


class Client:
    """One connection, kept alive."""

    def __init__(self, port: int, timeout: float = PATIENCE) -> None:
        self.port = port
        self._connection = HTTPConnection("127.0.0.1", port, timeout=timeout)

    @property
    def local_port(self) -> int:
        """The client's end of the connection, once there is one."""
        port: int = self._connection.sock.getsockname()[1]
        return port

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request; a body that is an iterator goes out in chunks."""
        chunked = body is not None and not isinstance(body, bytes)
        self._connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
        response = self._connection.getresponse()
        return Response(response.status, response.headers, response.read(), path)

    def reopen_if_closed(self) -> None:
        """Let go of a connection that the server has closed meanwhile: the next request opens another."""
        if self._connection.sock is not None and select.select([self._connection.sock], [], [], 0)[0]:
            self._connection.close()

    def get(self, path: str) -> Response:
        return self.request("GET", path)

    def delete(self, path: str) -> Response:
        return self.request("DELETE", path)

    def post(self, path: str, body: Any = None) -> Response:
        """Post a value as JSON, or bytes that are called JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, {"Content-Type": JSON})

    def predict(self, model: str, instances: Any) -> Any:
        return self.post(f"/v1/models/{model}:predict", {"instances": instances}).expect()["predictions"]

    def create(self, model: str, name: str | None = None, ttl: int | None = None) -> str:
        """Create a session and return its path."""
        asked = {"session": name, "ttl": ttl}
        body = {key: value for key, value in asked.items() if value is not None}
        response = self.post(f"/v1/models/{model}/sessions", body)
        response.expect(201)
        location = response.headers["Location"]
        assert isinstance(location, str)
        return location

    def step(self, address: str, instances: Any) -> Any:
        """Step a session."""
        return self.post(f"{address}:predict", {"instances": instances}).expect()

    def step_of(self, address: str) -> int:
        """The step that a session is at."""
        step: int = self.get(address).expect()["step"]
        return step

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
