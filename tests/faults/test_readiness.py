"""The service is ready when a step can be committed: it asks for no right that steps do not need."""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import ResponseError

from carryover.keys import digest
from carryover.store import Store
from carryover.store.counting import count
from carryover.store.record import GRACE, HEADER_BYTES
from carryover.store.sweeper import sweep
from tests.support.calls import call, fresh, post
from tests.support.client import Client, Response, problem, sentence
from tests.support.redis_server import RedisServer, documented_rights, free_port, key_of
from tests.support.service import Service
from tests.support.sockets import Events
from tests.support.topologies import command
from tests.support.waiting import eventually

ROW = [1, 2, 3, 4, 5, 6, 7, 8]
SESSIONS = "/v1/models/digits-rnn/sessions"
ALL = ("~*", "&*", "+@all")
COMMANDS = ["mget", "get", "set", "pttl", "getrange", "del", "exists", "strlen", "scan", "eval", "evalsha", "ping"]
"""All that the service runs, as docs/guarantees.md lists them; with rates, `time` as well."""
STEP = {"instances": [ROW]}
BURST = 12


@dataclass
class Place:
    """A service, and the Redis where it is a user with rights of its own."""

    server: RedisServer
    service: Service

    def allow(self, *rules: str) -> None:
        """Let the service's user do this, and no more."""
        command(self.server.redis, "ACL", "SETUSER", "app", "reset", "on", ">secret", *rules)

    def ready(self) -> str | None:
        """Why the service is not ready; None where it is."""
        with self.service.client() as client:
            answer = client.get("/v2/health/ready")
            if answer.status == 200:
                assert answer.json["ready"] is True
                return None
            assert answer.json["ready"] is False
            assert answer.headers["Retry-After"] == "1"
            return sentence(answer.json, 503)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    server = RedisServer("--enable-protected-configs", "yes").start()
    service = Service(
        tmp_path_factory.mktemp("readiness"),
        WORKERS=1,
        REDIS_URL=server.url.replace("//", "//app:secret@"),
        REDIS_TIMEOUT=1,
    )
    made = Place(server, service)
    made.allow(*ALL)
    try:
        service.start()
        yield made
    finally:
        service.end()
        server.end()


@pytest.fixture
def client(place: Place) -> Iterator[Client]:
    with place.service.client() as connection:
        yield connection


@pytest.mark.parametrize(
    "rules",
    [("~*", "&*", "+@all", "-@dangerous", "-@admin"), ("~carryover:*", *(f"+{name}" for name in COMMANDS))],
    ids=["nothing-dangerous", "only-what-steps-need"],
)
def test_it_is_ready_with_the_rights_that_steps_need(place: Place, client: Client, rules: tuple[str, ...]) -> None:
    place.allow(*rules)
    try:
        for _ in range(2):
            place.server.redis.script_flush()
            assert place.ready() is None
        address = client.create("digits-rnn")
        assert post(client, f"{address}:predict", {"instances": [ROW]}, key="k").expect()["step"] == 1
        assert client.delete(address).status == 204
        store = Store(place.server.url.replace("//", "//app:secret@"), 1, 60)
        assert store.elect(fresh(), 1)
        sweep(store)
    finally:
        place.allow(*ALL)


@pytest.fixture
def rated(place: Place, tmp_path: Path) -> Iterator[Place]:
    """Another service at this Redis, whose only key has a rate."""
    place.allow(*documented_rights())
    command(place.server.redis, "ACL", "LOG", "RESET")
    entry = f'[keys.app]\nsha256 = "{digest("app")}"\nrights = ["predict", "sessions", "admin"]\nrate = "{BURST}/day"\n'
    (tmp_path / "keys.toml").write_text(entry)
    url = place.server.url.replace("//", "//app:secret@")
    try:
        with Service(tmp_path, WORKERS=1, REDIS_URL=url, API_KEYS=tmp_path / "keys.toml") as service:
            yield Place(place.server, service)
    finally:
        place.allow(*ALL)


def test_all_that_the_service_does_needs_no_other_rights(rated: Place) -> None:
    key = {"Authorization": "Bearer app"}
    path = f"{SESSIONS}/rights"

    def ask(method: str, path: str, body: object = None, **headers: str) -> Response:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        return app.request(method, path, data, {"Content-Type": kind, **key, **headers})

    with rated.service.client() as app:
        assert ask("POST", f"{path}:predict?create=true", STEP, **{"Idempotency-Key": "k"}).expect()["step"] == 1
        assert ask("POST", f"{path}:fork", {"session": "copy"}).status == 201
        state = ask("GET", f"{path}/state").body
        assert ask("PUT", f"{path}/state", state).expect()["step"] == 1
        assert ask("POST", f"{SESSIONS}:predict", {"sessions": {"rights": [ROW], "copy": [ROW]}}).status == 200
        assert len(ask("GET", SESSIONS).expect()["sessions"]) == 2
        assert ask("GET", f"{SESSIONS}:count").expect()["count"] == 2
        with Events(rated.service.port, path, **key) as events:
            assert getattr(events.next(), "kind", "") == "state"
        assert ask("DELETE", f"{SESSIONS}?prefix=copy").expect()["deleted"] == 1
        assert ask("POST", "/v1/accumulators/rights", {"values": [1]}).expect()["step"] == 1
        assert ask("DELETE", path).status == 204
        assert ask("GET", "/v1/models").status == 429
    store = Store(rated.server.url.replace("//", "//app:secret@"), 1, 60)
    assert store.elect("some-office", 60)
    store.note_counts(count(store), 60)
    store.hold("some-office", 60)
    sweep(store)
    denied = {entry["object"] for entry in rated.server.redis.acl_log()}
    assert denied <= {"info"}, "INFO is asked for, and gone without"


def test_a_service_with_rates_is_not_ready_without_the_right_that_they_need(rated: Place) -> None:
    rated.allow("~carryover:*", *(f"+{name}" for name in COMMANDS))
    assert "credentials" in (rated.ready() or "")
    rated.allow(*ALL)
    assert rated.ready() is None


@pytest.mark.parametrize("missing", ["mget", "pttl", "evalsha", "set", "get", "getrange"])
def test_it_is_not_ready_without_a_right_that_steps_need(place: Place, missing: str) -> None:
    place.allow(*ALL, f"-{missing}")
    try:
        assert "credentials" in (place.ready() or "")
    finally:
        place.allow(*ALL)
    assert place.ready() is None


def test_with_a_read_only_replica_it_is_not_ready(place: Place) -> None:
    place.server.redis.replicaof("127.0.0.1", free_port())
    try:
        assert place.ready() == "Redis is a read-only replica"
    finally:
        place.server.redis.replicaof("NO", "ONE")
    assert place.ready() is None


def test_readiness_leaves_nothing_behind(place: Place) -> None:
    """Those of a probe that has failed are there until they expire; other keys come and go by themselves."""
    before = set(place.server.redis.keys("*:probe:*"))
    for _ in range(20):
        assert place.ready() is None
    assert set(place.server.redis.keys("*:probe:*")) <= before


def test_with_redis_full_it_is_not_ready_and_what_frees_memory_is_carried_out(place: Place, client: Client) -> None:
    redis = place.server.redis
    deleted, keyed, expired, living = (client.create("digits-rnn", fresh(), ttl=600) for _ in range(4))
    redis.pexpire(key_of(expired), GRACE)
    redis.config_set("maxmemory", 1)
    try:
        assert place.ready() == "Redis is full"
        assert "full" in problem(client.post(f"{living}:predict", {"instances": [ROW]}), 503)
        assert "full" in problem(post(client, f"{living}:predict", {"instances": [ROW]}, key="k"), 503)
        assert client.delete(deleted).status == 204
        problem(client.get(deleted), 410)
        for _ in range(2):
            assert call(client, "DELETE", keyed, key="d").status == 204
        problem(client.get(keyed), 410)
        store = Store(place.server.url, 1, 60)
        office = fresh()
        assert store.elect(office, 60)
        assert not store.elect(office, 60)
        assert sweep(store) >= 1
        assert redis.strlen(key_of(expired)) == HEADER_BYTES
        left = redis.pttl(key_of(expired))
        assert isinstance(left, int)
        assert GRACE - 60_000 < left <= GRACE
        assert client.step_of(living) == 0
    finally:
        redis.config_set("maxmemory", 0)
    assert place.ready() is None
    assert client.step(living, [ROW])["step"] == 1


def test_while_redis_cannot_write_to_its_disk_it_is_not_ready(place: Place, client: Client, tmp_path: Path) -> None:
    redis = place.server.redis
    address, folder = client.create("digits-rnn", fresh()), tmp_path / "disk"

    def snapshot(status: str) -> bool:
        with suppress(ResponseError):  # one is being made
            redis.bgsave()
        return bool(redis.info("persistence")["rdb_last_bgsave_status"] == status)

    folder.mkdir()
    redis.config_set("dir", str(folder))
    redis.config_set("save", "3600 1000000")
    shutil.rmtree(folder)
    try:
        eventually("a snapshot that fails", lambda: snapshot("err"))
        assert place.ready() == "Redis cannot write to its disk"
        assert "disk" in problem(client.post(f"{address}:predict", {"instances": [ROW]}), 503)
        assert "disk" in problem(post(client, f"{address}:predict", {"instances": [ROW]}, key="disk"), 503)
        assert client.step_of(address) == 0
    finally:
        redis.config_set("dir", str(place.server.folder))
        eventually("a snapshot that works", lambda: snapshot("ok"))
        redis.config_set("save", "")
    assert place.ready() is None
    assert post(client, f"{address}:predict", {"instances": [ROW]}, key="disk").expect()["step"] == 1
