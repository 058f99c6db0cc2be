"""Requests with preconditions and idempotency keys."""

import json
import secrets
from typing import Any

from safetensors.numpy import load

from tests.support.client import JSON, Client, Response
from tests.support.connections import request_bytes

NAMES = {"key": "Idempotency-Key", "match": "If-Match", "none_match": "If-None-Match", "kind": "Content-Type"}
REPLAYED = "Idempotency-Replayed"
SNAPSHOT = "application/octet-stream"


def call(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Response:
    """Send a value as JSON, or bytes as they are; headers by their names in `NAMES`."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    said = {"Content-Type": JSON} if data is not None else {}
    return client.request(method, path, data, said | {NAMES[name]: value for name, value in headers.items()})


def post(client: Client, path: str, body: Any = None, **headers: str) -> Response:
    return call(client, "POST", path, body, **headers)


def head_of(method: str, path: str, body: bytes, **headers: str) -> bytes:
    """The bytes of a whole request, for a bare connection."""
    said = {"Content-Type": JSON, "Content-Length": str(len(body))}
    return request_bytes(method, path, said | {NAMES[name]: value for name, value in headers.items()}, body)


def fresh(word: str = "s") -> str:
    """A name that nothing has yet."""
    return f"{word}-{secrets.token_hex(6)}"


def state(client: Client, address: str) -> bytes:
    """A session's state, as a file."""
    response = client.get(f"{address}/state")
    assert response.status == 200, response.body
    return response.body


def held(client: Client, address: str) -> dict[str, Any]:
    """A session's step and the values of its state buffers."""
    values = load(state(client, address))
    return {"step": client.step_of(address)} | {name: array.tolist() for name, array in values.items()}


def put_state(client: Client, address: str, data: bytes, query: str = "", **headers: str) -> Response:
    return call(client, "PUT", f"{address}/state{query}", data, kind=SNAPSHOT, **headers)
