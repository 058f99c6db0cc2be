"""`?create=true`: the first step of a session creates it, on both ways and in a stream."""

import json
from uuid import uuid4

import pytest

from tests.support.client import NDJSON, Client, Response, problem, strict_json
from tests.support.connections import Stream
from tests.support.service import Service
from tests.support.waiting import eventually

ROW = [0, 0, 7, 15, 13, 1, 0, 0]
STEP = json.dumps({"instances": [ROW]}).encode()
SESSIONS = "/v1/models/digits-rnn/sessions"
UNUSUAL = {"Keep-Alive": "timeout=5"}
"""Headers with which a request is not ordinary: it goes through Flask."""
ways = pytest.mark.parametrize("way", ["short", "flask", "stream"])


@pytest.fixture
def path() -> str:
    return f"{SESSIONS}/{uuid4().hex}"


def send(client: Client, way: str, path: str, query: str = "?create=true", **headers: str) -> Response:
    """One step; a stream's key is in its line."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if way != "stream":
        more = UNUSUAL if way == "flask" else {}
        return client.request("POST", f"{path}:predict{query}", STEP, named | more)
    line = {"instances": [ROW]}
    if key := named.pop("Idempotency-Key", None):
        line["idempotency_key"] = key  # type: ignore[assignment]
    body = json.dumps(line).encode() + b"\n"
    return client.request("POST", f"{path}:stream{query}", body, named | {"Content-Type": NDJSON})


def step(response: Response) -> int:
    assert response.status == 200, response.body
    found: int = strict_json(response.body)["step"]
    return found


@ways
def test_a_missing_session_is_created_by_its_first_step(client: Client, path: str, way: str) -> None:
    for query in ("", "?create=false"):
        said = problem(send(client, way, path, query), 404)
        assert "POST /v1/models/digits-rnn/sessions" in said
        assert "create=true" in said
    assert step(send(client, way, path)) == 1
    assert step(send(client, way, path)) == 2
    created = client.get(path).expect()
    assert (created["step"], created["ttl"]) == (2, 3600)
    other = client.create("digits-rnn")
    for _ in range(2):
        last = client.step(other, [ROW])
    assert client.step(path, [ROW])["predictions"] == client.step(other, [ROW])["predictions"]
    assert last["step"] == 2


@ways
def test_preconditions_hold(client: Client, path: str, way: str) -> None:
    problem(send(client, way, path, If_Match="*"), 412)
    problem(send(client, way, path, If_Match='"0"'), 412)
    assert client.get(path).status == 404
    assert step(send(client, way, path, If_None_Match="*")) == 1
    problem(send(client, way, path, If_None_Match="*"), 412)
    assert step(send(client, way, path, If_Match='"1"')) == 2
    problem(send(client, way, path, "?create=yes"), 400)


@ways
def test_a_retry_with_its_key_creates_nothing(client: Client, path: str, way: str) -> None:
    first = send(client, way, path, Idempotency_Key="a")
    again = send(client, way, path, Idempotency_Key="a")
    assert first.body == again.body
    assert client.step_of(path) == 1


@ways
def test_a_deleted_session_is_created_again_and_an_expired_one_is_not(client: Client, path: str, way: str) -> None:
    assert step(send(client, way, path)) == 1
    assert client.delete(path).status == 204
    problem(send(client, way, path, ""), 410)
    assert step(send(client, way, path)) == 1
    assert client.delete(path).status == 204
    client.create("digits-rnn", path.rpartition("/")[2], ttl=1)
    eventually("its expiry", lambda: client.get(path).status == 410)
    problem(send(client, way, path), 410)


def test_a_session_that_is_deleted_during_a_stream_stays_deleted(service: Service, client: Client, path: str) -> None:
    with Stream(service.port, path, query="?create=true").open() as stream:
        assert stream.step([ROW])["step"] == 1
        assert client.delete(path).status == 204
        assert stream.step([ROW])["status"] == 410
    assert client.get(path).status == 410
