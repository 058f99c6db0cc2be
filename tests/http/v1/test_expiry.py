"""The memory of sessions that have ended: given back, and the end is remembered."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from carryover.store import Store
from carryover.store.record import GRACE, HEADER_BYTES
from carryover.store.sweeper import sweep
from tests.support.calls import fresh, post, put_state, state
from tests.support.client import Client, problem
from tests.support.redis_server import RedisServer, key_of
from tests.support.repository import write_recurrent
from tests.support.service import Service
from tests.support.waiting import eventually

ROW = [0.5, -1.0, 2.0]
SESSIONS = "/v1/models/rnn/sessions"


@pytest.fixture(scope="module")
def swept(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose accumulators live for a second."""
    few: Path = write_recurrent(tmp_path_factory.mktemp("few") / "models")
    with Service(
        tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=few, REDIS_URL=server.url, WORKERS=1, SESSION_TTL=1
    ) as service:
        yield service


@pytest.fixture
def client(swept: Service) -> Iterator[Client]:
    with swept.client() as connection:
        yield connection


def expire(server: RedisServer, address: str) -> None:
    """Let a session's time pass."""
    server.redis.pexpire(key_of(address), GRACE)


def refusals(client: Client, address: str, data: bytes) -> None:
    """Whether all that needs the session is 410, and nothing revives it."""
    for _ in range(2):
        problem(client.get(address), 410)
        problem(client.get(f"{address}/state"), 410)
        problem(client.post(f"{address}:predict", {"instances": [ROW]}), 410)
        problem(post(client, f"{address}:predict", {"instances": [ROW]}, key=fresh()), 410)
        problem(client.post(f"{address}:reset", {}), 410)
        problem(client.post(f"{address}:fork", {}), 410)
    # Its name is free, for a new session or for its state.
    put_state(client, address, data).expect()
    assert client.step(address, [ROW])["step"] == 2


def test_a_sweep_drops_the_states_of_expired_sessions_and_of_no_other(client: Client, server: RedisServer) -> None:
    living, expired, deleted = (client.create("rnn", fresh(), ttl=600) for _ in range(3))
    for address in (living, expired, deleted):
        client.step(address, [ROW])
    data, left = state(client, living), server.redis.pttl(key_of(living))
    expire(server, expired)
    client.delete(deleted)
    assert server.redis.strlen(key_of(expired)) > HEADER_BYTES
    problem(client.get(expired), 410)

    assert sweep(Store(server.url, 2.0, 60)) >= 1
    assert server.redis.strlen(key_of(expired)) == HEADER_BYTES
    assert 0 < server.redis.pttl(key_of(expired)) <= GRACE
    assert left - 60_000 < server.redis.pttl(key_of(living)) <= left
    assert sweep(Store(server.url, 2.0, 60)) == 0

    assert client.step(living, [ROW])["step"] == 2
    refusals(client, expired, data)
    refusals(client, deleted, data)


def test_an_expired_session_is_410_before_any_sweep(client: Client, server: RedisServer) -> None:
    address = client.create("rnn", fresh(), ttl=600)
    client.step(address, [ROW])
    data = state(client, address)
    expire(server, address)
    refusals(client, address, data)


def test_a_keyed_step_of_an_expired_session_is_410_each_time(client: Client, server: RedisServer) -> None:
    address = client.create("rnn", fresh(), ttl=600)
    expire(server, address)
    for _ in range(2):
        problem(post(client, f"{address}:predict", {"instances": [ROW]}, key="k"), 410)


def test_the_end_is_remembered_for_a_day(client: Client, server: RedisServer) -> None:
    expired, deleted = (client.create("rnn", fresh(), ttl=600) for _ in range(2))
    assert server.redis.pttl(key_of(expired)) > 600_000 + GRACE - 60_000
    client.delete(deleted)
    assert GRACE - 60_000 < server.redis.pttl(key_of(deleted)) <= GRACE
    server.redis.delete(key_of(expired))
    problem(client.get(expired), 404)


def test_a_deleted_session_takes_hardly_any_memory(client: Client, server: RedisServer) -> None:
    address = client.create("rnn", fresh())
    client.delete(address)
    assert server.redis.strlen(key_of(address)) == 9


def test_a_use_by_any_call_that_changes_it_keeps_a_session_alive(client: Client, server: RedisServer) -> None:
    address = client.create("rnn", fresh(), ttl=600)
    data = state(client, address)

    def left_after(use: str) -> int:
        server.redis.pexpire(key_of(address), GRACE + 5000)
        match use:
            case "step":
                client.step(address, [ROW])
            case "reset":
                client.post(f"{address}:reset", {}).expect()
            case "put":
                put_state(client, address, data).expect()
            case "look":
                client.get(address).expect()
            case "failed":
                problem(client.post(f"{address}:predict", {"instances": [[1]]}), 400)
        left: int = server.redis.pttl(key_of(address)) - GRACE
        return left

    for use in ("step", "reset", "put"):
        assert left_after(use) > 500_000, use
    for use in ("look", "failed"):
        assert left_after(use) <= 5000, use


def test_a_replay_outlives_the_session_and_does_not_revive_it(client: Client, server: RedisServer) -> None:
    address = client.create("rnn", fresh(), ttl=600)
    first = post(client, f"{address}:predict", {"instances": [ROW]}, key="k")
    expire(server, address)
    again = post(client, f"{address}:predict", {"instances": [ROW]}, key="k")
    assert again.body == first.body
    problem(client.get(address), 410)


def test_an_expired_accumulator_is_not_created_again_by_itself(client: Client) -> None:
    address = f"/v1/accumulators/{fresh()}"
    client.post(address, {"values": [1]}).expect()
    eventually("its end", lambda: client.get(address).status == 410)
    problem(client.post(address, {"values": [1]}), 410)
    assert client.delete(address).status == 204
    assert client.post(address, {"values": [1]}).expect()["sum"] == 1
