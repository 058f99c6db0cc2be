"""What is stored in Redis, how much of it, for how long, and that a commit is made once or not at all."""

import os
import random
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import redis
import torch
from safetensors.torch import load_file

from carryover.engine import Engine, Limits
from carryover.engine.operations import Create, Step
from carryover.errors import StoreUnavailableError
from carryover.runtime.repository import Repository
from carryover.store import IdempotencyKey, Outcome, Record, Store
from carryover.store.record import GRACE, HEADER_BYTES, SESSION
from carryover.store.redis import connect
from carryover.store.redis import server as server_module
from carryover.store.store import Commit
from carryover.store.sweeper import sweep
from models.rnn import RNNClassifier
from tests.support.client import Client, problem, sentence
from tests.support.connections import line_of
from tests.support.paths import CHECKPOINTS
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually
from tests.support.writes import Write

ROW = [1, 2, 3, 4, 5, 6, 7, 8]
STATE_BYTES = 64 * 4
DAY = 24 * 3600 * 1000


@dataclass
class Place:
    """A service, and the Redis behind it; the way between them can be cut."""

    service: Service
    redis: RedisServer
    way: Proxy

    def key(self, model: str, name: str) -> bytes:
        """The only key that has to do with a session."""
        keys: list[bytes] = [key for key in self.redis.redis.scan_iter() if f"{model}/{name}".encode() in key]
        assert len(keys) == 1
        return keys[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, common_models: Path) -> Iterator[Place]:
    server = RedisServer().start()
    with Proxy(server.port) as way:
        running = Service(tmp_path_factory.mktemp("store"), REDIS_URL=way.url, MODEL_REPOSITORY=common_models)
        try:
            yield Place(running.start(), server, way)
        finally:
            running.end()
            server.end()


@pytest.fixture
def there(place: Place) -> Iterator[Client]:
    """A connection to the service."""
    with place.service.client() as client:
        yield client


def test_a_session_is_one_key_that_holds_a_header_and_the_raw_state(place: Place, there: Client) -> None:
    address = there.create("digits-rnn", "raw", ttl=600)
    for _ in range(3):
        there.step(address, [ROW])
    key = place.key("digits-rnn", "raw")
    record = place.redis.redis.get(key)
    assert isinstance(record, bytes)
    assert len(record) == HEADER_BYTES + STATE_BYTES
    form, step, created, ttl = struct.unpack_from("<B8xQQI", record)
    assert (form, step, ttl) == (3, 3, 600)
    assert abs(created / 1000 - time.time()) < 600
    assert struct.unpack_from("<Q", record, 45) == (1,)
    assert record[29:37].hex() == there.get("/v1/models/digits-rnn").expect()["fingerprint"]
    module = RNNClassifier()
    module.load_state_dict(load_file(CHECKPOINTS / "digits-rnn/1/weights.safetensors"))
    with torch.inference_mode():
        module.eval()(torch.tensor(ROW).float().expand(3, 1, 8))
    held = torch.tensor(struct.unpack("<64f", record[HEADER_BYTES:]))
    assert torch.allclose(held, module.hidden.flatten(), rtol=0, atol=1e-5)


def test_all_keys_of_a_session_share_its_hash_tag(place: Place, there: Client) -> None:
    there.create("digits-rnn", "tagged")
    assert b"{digits-rnn/tagged}" in place.key("digits-rnn", "tagged")


@pytest.mark.parametrize("length", [1, 8, 16, 22, 36, 64, 100, 128])
def test_a_session_takes_its_state_its_name_and_little_more(place: Place, there: Client, length: int) -> None:
    name = ("n" * length)[:length]
    address = there.create("digits-rnn", name)
    for _ in range(3):
        key = place.key("digits-rnn", name)
        usage = place.redis.redis.memory_usage(key, samples=0)
        assert isinstance(usage, int)
        assert usage <= STATE_BYTES + len(key) + 136  # 113 to 129, as the allocator rounds up
        there.step(address, [ROW])
    there.delete(address)


def test_a_deleted_session_takes_little_and_is_remembered_for_a_day(place: Place, there: Client) -> None:
    address = there.create("digits-rnn", "remembered")
    there.delete(address)
    key = place.key("digits-rnn", "remembered")
    usage, left = place.redis.redis.memory_usage(key), place.redis.redis.pttl(key)
    assert isinstance(usage, int)
    assert isinstance(left, int)
    assert usage <= len(key) + 120
    assert DAY - 60_000 < left <= DAY
    problem(there.get(address), 410)
    place.redis.redis.pexpire(key, 1)
    eventually("the end of the day", lambda: not place.redis.redis.exists(key))
    problem(there.get(address), 404)


def test_an_expired_session_is_remembered_for_a_day(place: Place, there: Client) -> None:
    address = there.create("digits-rnn", "outlived", ttl=600)
    there.step(address, [ROW])
    key = place.key("digits-rnn", "outlived")
    left = place.redis.redis.pttl(key)
    assert isinstance(left, int)
    assert DAY + 590_000 < left <= DAY + 600_000
    place.redis.redis.pexpire(key, DAY + 500)
    answer = eventually("its end", lambda: (a := there.get(address)).status != 200 and a)
    assert "expired" in problem(answer, 410)
    assert "expired" in problem(there.post(f"{address}:predict", {"instances": [ROW]}), 410)
    many = there.post("/v1/models/digits-rnn/sessions:predict", {"sessions": {"outlived": [ROW]}}).expect()
    sentence(many["sessions"]["outlived"], 410)
    place.redis.redis.pexpire(key, 1)
    eventually("the end of the day", lambda: not place.redis.redis.exists(key))
    problem(there.get(address), 404)
    problem(there.post(f"{address}:predict", {"instances": [ROW]}), 404)


def test_a_step_extends_the_ttl_and_reading_does_not(place: Place, there: Client) -> None:
    address = there.create("digits-rnn", "used", ttl=600)
    key = place.key("digits-rnn", "used")

    def left() -> int:
        milliseconds = place.redis.redis.pttl(key)
        assert isinstance(milliseconds, int)
        return milliseconds

    place.redis.redis.pexpire(key, DAY + 300_000)
    there.get(address).expect()
    assert left() <= DAY + 300_000
    there.post(f"{address}:predict", {"instances": [[1]]}).expect(400)
    assert left() <= DAY + 300_000
    there.step(address, [ROW])
    assert DAY + 590_000 < left() <= DAY + 600_000


def test_a_rejected_call_writes_nothing(place: Place, there: Client) -> None:
    address = there.create("digits-rnn", "untouched")
    key = place.key("digits-rnn", "untouched")
    before = place.redis.redis.get(key)
    keys = place.redis.redis.dbsize()
    there.post(f"{address}:predict", {"instances": [[1]]}).expect(400)
    there.predict("digits-rnn", [ROW])
    there.post("/v1/models/digits-rnn/sessions/none:predict", {"instances": [ROW]}).expect(404)
    there.get(address).expect()
    assert place.redis.redis.get(key) == before
    assert place.redis.redis.dbsize() == keys


def test_a_record_that_is_not_the_services_is_no_traceback(place: Place, there: Client) -> None:
    address = there.create("digits-rnn", "strange")
    key = place.key("digits-rnn", "strange")
    for value in (b"\x07future", b"\x01short", b"", b"\xff" * 300):
        place.redis.redis.set(key, value, px=DAY + 60_000)
        for answer in (there.get(address), there.post(f"{address}:predict", {"instances": [ROW]})):
            assert answer.status in (404, 409, 503)
            problem(answer, answer.status)
    place.redis.redis.delete(key)
    place.redis.redis.hset(key.decode(), "a", "b")
    problem(there.get(address), 503)
    problem(there.post(f"{address}:predict", {"instances": [ROW]}), 404)  # what MGET makes of another type: nothing
    place.redis.redis.delete(key)


def test_records_of_earlier_versions_of_the_service_are_read(place: Place, there: Client) -> None:
    lives, expires = (there.create("digits-rnn", name) for name in ("earlier-lives", "expired-earlier"))
    for address, left in ((lives, 60_000), (expires, -1)):
        there.step(address, [ROW])
        key = place.key("digits-rnn", address.rpartition("/")[2])
        record = place.redis.redis.get(key)
        assert isinstance(record, bytes)
        place.redis.redis.set(key, b"\1" + record[1:45] + record[HEADER_BYTES:], px=DAY + left)
    expected = there.create("digits-rnn", "now")
    there.step(expected, [ROW])
    assert there.step(lives, [ROW]) == there.step(expected, [ROW]) | {"session": "earlier-lives"}
    assert there.step_of(lives) == 2
    problem(there.post(f"{expires}:predict", {"instances": [ROW]}), 410)
    key = place.key("digits-rnn", "expired-earlier")
    assert sweep(Store(place.redis.url, 2.0, 60)) >= 1
    assert place.redis.redis.strlen(key) == 45
    problem(there.get(expires), 410)


@pytest.mark.parametrize("length", [1, 20, HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + STATE_BYTES - 1])
def test_a_record_that_is_cut_short_is_one_error_for_reads_and_steps(place: Place, there: Client, length: int) -> None:
    name = f"cut-{length}"
    address = there.create("digits-rnn", name)
    there.step(address, [ROW])
    key = place.key("digits-rnn", name)
    record = place.redis.redis.get(key)
    assert isinstance(record, bytes)
    place.redis.redis.set(key, record[:length], px=DAY + 60_000)
    sessions = "/v1/models/digits-rnn/sessions"
    many = there.post(f"{sessions}:predict", {"sessions": {name: [ROW]}}).expect()["sessions"][name]
    said = {
        sentence(many, 503),
        problem(there.get(address), 503),
        problem(there.get(f"{address}/state"), 503),
        problem(there.post(f"{address}:predict", {"instances": [ROW]}), 503),
        problem(there.post(f"{address}:fork", {}), 503),
    }
    assert len(said) == 1
    assert "damaged" in said.pop()
    assert place.redis.redis.get(key) == record[:length]
    if length >= HEADER_BYTES:
        assert there.delete(address).status == 204


def test_a_batch_takes_two_round_trips_however_many_sessions_it_steps(place: Place, there: Client) -> None:
    names = [there.create("digits-rnn").rpartition("/")[2] for _ in range(50)]
    place.redis.redis.config_resetstat()
    body = {"sessions": {name: [ROW] for name in names}}
    entries = there.post("/v1/models/digits-rnn/sessions:predict", body).expect()["sessions"]
    assert {entry["step"] for entry in entries.values()} == {1}
    assert commands(place) == {"mget": 1, "evalsha": 1}

    stream = place.service.stream(f"/v1/models/digits-rnn/sessions/{names[0]}")
    place.redis.redis.config_resetstat()
    stream.send(b"".join(line_of([ROW]) for _ in range(20)))
    assert [stream.line()["step"] for _ in range(20)] == list(range(2, 22))
    assert commands(place) == {"mget": 1, "evalsha": 1}

    place.redis.redis.config_resetstat()
    chunk = b"%x\r\n%s\r\n" % (len(line_of([ROW])), line_of([ROW]))
    stream.wire.send(chunk * 20)
    assert [stream.line()["step"] for _ in range(20)] == list(range(22, 42))
    stream.close()
    assert commands(place) == {"mget": 1, "evalsha": 1}

    place.redis.redis.config_resetstat()
    there.predict("digits-rnn", [ROW])
    assert commands(place) == {}


def commands(place: Place) -> dict[str, int]:
    """How often the service has asked for what, since the counts were last set to nothing."""
    counts = place.redis.redis.info("commandstats")
    assert isinstance(counts, dict)
    # What the script asks for is no round trip, and what begins with config or info is this test's.
    asked = {name.removeprefix("cmdstat_"): count["calls"] for name, count in counts.items()}
    within = {"getrange", "pttl", "set", "get"}
    return {name: count for name, count in asked.items() if name.partition("|")[0] not in within | {"config", "info"}}


def test_scripts_that_redis_has_forgotten_are_sent_again(place: Place, there: Client) -> None:
    address = there.create("digits-rnn")
    for step in range(1, 4):
        place.redis.redis.script_flush()
        assert there.step(address, [ROW])["step"] == step
    place.redis.redis.script_flush()
    there.create("digits-rnn")
    place.redis.redis.script_flush()
    assert there.delete(address).status == 204


def test_connections_that_redis_has_closed_are_opened_again(place: Place, there: Client) -> None:
    address = there.create("digits-rnn")
    for step in range(1, 6):
        place.redis.redis.client_kill_filter(_type="normal", skipme=True)
        assert there.step(address, [ROW])["step"] == step


@pytest.mark.parametrize("before", [True, False], ids=["request-lost", "reply-lost"])
@pytest.mark.parametrize("word", [b"EVALSHA", b"MGET"])
def test_a_step_is_made_once_though_the_connection_breaks(
    place: Place, there: Client, word: bytes, before: bool
) -> None:
    address = there.create("sum")
    there.step(address, [1])
    for number in range(2, 6):
        place.way.cut_at(word, before=before)
        answer = there.step(address, [1])
        assert place.way.cuts == 1
        assert (answer["step"], answer["predictions"]) == (number, [float(number)])
        assert there.step_of(address) == number


@pytest.mark.parametrize("before", [True, False], ids=["request-lost", "reply-lost"])
def test_a_session_is_created_and_deleted_once_though_the_connection_breaks(
    place: Place, there: Client, before: bool
) -> None:
    name = f"once-{before}"
    place.way.cut_at(b"EVALSHA", before=before)
    address = there.create("sum", name)
    assert there.step(address, [1])["step"] == 1
    place.way.cut_at(b"EVALSHA", before=before)
    assert there.delete(address).status == 204
    problem(there.get(address), 410)


def test_a_step_whose_fate_is_unknown_is_503_and_says_so(place: Place, there: Client) -> None:
    address = there.create("sum")
    place.way.cut_at(b"EVALSHA", before=False, times=100)
    answer = there.post(f"{address}:predict", {"instances": [1]})
    place.way.cut_at(b"", before=False, times=0)
    text = problem(answer, 503)
    assert "not known" in text
    assert answer.headers["Retry-After"]
    assert there.step_of(address) in (0, 1)


KEY = "m/name"
FINGERPRINT, LAYOUT = b"version.", b"layout.."


@pytest.fixture
def store(place: Place) -> Store:
    return Store(place.redis.url, 2.0, 60, prefix="test")


@pytest.fixture(autouse=True)
def _clean(place: Place) -> Iterator[None]:
    yield
    for key in place.redis.redis.keys("test:*"):
        place.redis.redis.delete(key)


def new(state: bytes = b"state", ttl: int = 60) -> Record:
    return Record.new(FINGERPRINT, LAYOUT, 1, state, ttl)


def advanced(record: Record, step: int, state: bytes) -> Record:
    """The record of the same session at another step."""
    return replace(record, step=step, state=state)


def created(store: Store, key: str = KEY) -> Record:
    """Create a session and return what the store has of it."""
    assert store.commit([Write(key, None, new(), live=False)]) == [Outcome.COMMITTED]
    record = loaded(store, key)
    assert record is not None
    return record


def loaded(store: Store, key: str = KEY) -> Record | None:
    """What the store has of a session."""
    found = store.load([key])[0][0]
    assert not isinstance(found, StoreUnavailableError)
    return found


def test_what_is_committed_is_what_is_read(store: Store) -> None:
    assert loaded(store) is None
    record = created(store)
    assert record.live
    assert (record.step, record.state, record.ttl) == (0, b"state", 60)
    assert (record.fingerprint, record.layout) == (FINGERPRINT, LAYOUT)
    assert store.commit([Write(KEY, record, advanced(record, 1, b"later"))]) == [Outcome.COMMITTED]
    looked = store.look(KEY)
    assert looked is not None
    assert (looked.step, looked.state, looked.created) == (1, b"later", record.created)
    assert 59_000 < looked.remaining <= 60_000


def test_a_load_reads_how_long_sessions_have_left_where_that_is_asked_for(store: Store) -> None:
    created(store)
    first, second, nothing = store.load([KEY, KEY, "m/none"], expiring=[1, 2])[0]
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert first.remaining == 1
    assert 59_000 < second.remaining <= 60_000
    assert nothing is None


def test_no_commit_is_taken_for_another_though_models_seed_the_dice_and_workers_are_forked() -> None:
    def nonces() -> bytes:
        random.seed(0)
        return b"".join(new().data()[1:9] for _ in range(50))

    found = [nonces(), nonces()]
    for _ in range(2):
        outlet, inlet = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(inlet, nonces())
            os._exit(0)
        os.waitpid(child, 0)
        found.append(os.read(outlet, 400))
    every = {batch[i : i + 8] for batch in found for i in range(0, 400, 8)}
    assert len(every) == 200


def test_a_commit_on_what_has_changed_is_a_conflict(store: Store) -> None:
    record = created(store)
    mine, yours = (Write(KEY, record, advanced(record, 1, state)) for state in (b"mine", b"yours"))
    assert store.commit([mine]) == [Outcome.COMMITTED]
    assert store.commit([yours]) == [Outcome.CONFLICT]
    now = loaded(store)
    assert now is not None
    assert now.state == b"mine"


def test_whoever_claims_a_session_wins_the_race_for_it(store: Store, place: Place) -> None:
    record = created(store)
    rival = Write(KEY, record, advanced(record, 1, b"rival"))
    place.redis.redis.pexpire("test:{m/name}", GRACE + 7000)
    store.claim([KEY, "m/none"])
    assert store.commit([rival]) == [Outcome.CONFLICT]
    now, looked = loaded(store), store.look(KEY)
    assert now is not None
    assert looked is not None
    assert now.header != record.header
    assert (now.data()[9:], now.edition) == (record.data()[9:], record.edition)
    assert 6_000 < looked.remaining <= 7_000
    assert store.commit([Write(KEY, now, advanced(now, 1, b"mine"))]) == [Outcome.COMMITTED]
    assert store.load(["m/none"])[0] == [None]


class Rivalled(Store):
    """A store on which a rival commits just before each commit, unless the session was claimed: then it reads it."""

    rival: Record | None = None
    races = 0

    def commit(
        self, commits: Sequence[Commit], releases: Sequence[tuple[str, IdempotencyKey]] = ()
    ) -> list[Outcome | StoreUnavailableError]:
        self.races += 1
        (mine,) = commits
        if self.rival is None:
            self.rival = loaded(self, mine.key)
        if self.rival is not None:
            (outcome,) = super().commit([Write(mine.key, self.rival, self.rival)])
            self.rival = loaded(self, mine.key) if outcome is Outcome.COMMITTED else None
        return super().commit(commits, releases)


def test_a_worker_that_is_a_little_slower_wins_races_too(place: Place) -> None:
    """It would lose all of them, as long as the other has requests."""
    store = Rivalled(place.redis.url, 2.0, 60, prefix="test")
    limits = Limits(8, 8, 60, 1 << 20, PATIENCE, 1 << 20, 1 << 20, 8)
    engine = Engine(Repository.load([CHECKPOINTS]), store, limits)
    model = engine.repository.model("digits-rnn")
    engine.run([Create(model, "raced", ttl=60)])
    store.races = 0
    step = Step(model, "raced", {"rows": np.zeros((1, 1, 8), np.float32)})
    engine.run([step])
    assert step.error is None
    assert step.step == 1
    assert 1 < store.races < 20


def test_two_that_create_one_name_conflict(store: Store) -> None:
    created(store)
    assert store.commit([Write(KEY, None, new(b"other"), live=False)]) == [Outcome.CONFLICT]


def test_a_commit_on_what_has_expired_or_was_deleted_fails(store: Store, place: Place) -> None:
    record = created(store)
    after = Write(KEY, record, advanced(record, 1, b"late"))
    place.redis.redis.pexpire("test:{m/name}", GRACE - 1)
    assert store.commit([after]) == [Outcome.GONE]
    expired = store.look(KEY)
    assert expired is not None
    assert not expired.live
    assert store.commit([Write(KEY, record, None, live=False)]) == [Outcome.COMMITTED]
    assert store.commit([after]) == [Outcome.GONE]
    place.redis.redis.delete("test:{m/name}")
    assert store.commit([after]) == [Outcome.GONE]
    assert loaded(store) is None


def test_a_session_that_was_deleted_and_created_again_is_not_taken_for_the_one_before(store: Store) -> None:
    record = created(store)
    assert store.commit([Write(KEY, record, None)]) == [Outcome.COMMITTED]
    tombstone = loaded(store)
    assert tombstone is not None
    assert not tombstone.live
    assert tombstone.state == b""
    assert store.commit([Write(KEY, tombstone, record, live=False)]) == [Outcome.COMMITTED]
    assert store.commit([Write(KEY, record, advanced(record, 1, b"late"))]) == [Outcome.CONFLICT]


def test_many_commits_in_one_call_each_have_their_own_outcome(store: Store) -> None:
    keys = [f"m/{number}" for number in range(5)]
    records = [created(store, key) for key in keys]
    assert store.commit([Write(keys[1], records[1], advanced(records[1], 1, b"first"))]) == [Outcome.COMMITTED]
    assert store.commit([Write(keys[3], records[3], None)]) == [Outcome.COMMITTED]
    writes = [Write(key, record, advanced(record, 1, b"second")) for key, record in zip(keys, records, strict=True)]
    committed, conflict, gone = Outcome.COMMITTED, Outcome.CONFLICT, Outcome.GONE
    assert store.commit(writes) == [committed, conflict, committed, gone, committed]
    together = store.load([*keys, "m/none"])[0]
    alone = [loaded(store, key) for key in (*keys, "m/none")]
    assert [isinstance(one, Record) and one.header for one in together] == [
        (one and one.header) or False for one in alone
    ]
    states = [one.state if isinstance(one, Record) and one.live else None for one in together]
    assert states == [b"second", b"first", b"second", None, b"second", None]


def test_a_commit_that_was_made_though_its_reply_was_lost_is_committed_once(store: Store, place: Place) -> None:
    record = created(store)
    with Proxy(place.redis.port) as way:
        lossy = Store(way.url, 2.0, 60, prefix="test")
        way.cut_at(b"EVALSHA", before=False)
        assert lossy.commit([Write(KEY, record, advanced(record, 1, b"sent twice"))]) == [Outcome.COMMITTED]
        assert way.cuts == 1
    now = loaded(store)
    assert now is not None
    assert (now.step, now.state) == (1, b"sent twice")


@pytest.mark.parametrize("before", [True, False])
def test_a_lock_whose_connection_broke_is_not_taken_for_anothers(store: Store, place: Place, before: bool) -> None:
    key = IdempotencyKey.of("k", "/path", b"body")
    with Proxy(place.redis.port) as way:
        lossy = Store(way.url, 2.0, 60, prefix="test")
        way.cut_at(key.lock(), before=before)
        assert lossy.load([KEY], [(KEY, key)]) == ([None], [None])
        assert way.cuts == 1
    assert store.load([KEY], [(KEY, key)]) == ([None], [key.lock()])


def test_a_server_that_is_not_there_is_an_error_of_its_own() -> None:
    nowhere = Store("redis://127.0.0.1:1/0", 0.5, 60)
    calls: tuple[Callable[[], object], ...] = (lambda: nowhere.look(KEY), nowhere.ping)
    for call in calls:
        with pytest.raises(StoreUnavailableError, match="Redis does not answer"):
            call()
    key = IdempotencyKey.of("k", "/path", b"body")
    found, locked = nowhere.load([KEY], [(KEY, key)])
    for error in (*found, *locked, *nowhere.commit([Write(KEY, None, new(), live=False)])):
        assert isinstance(error, StoreUnavailableError)
        assert "Redis does not answer" in str(error)


def test_a_server_that_was_away_for_long_is_found_again() -> None:
    server = RedisServer()
    topology = connect(server.url, 2.0)
    for _ in range(150):  # redis-py's own pool makes a hundred connections, ever
        assert isinstance(topology.run([("PING",)])[0], redis.ConnectionError)
    server.start()
    try:
        assert topology.run([("PING",)]) == [b"PONG"]
    finally:
        server.end()


def test_as_many_commands_may_wait_as_there_are_requests(redis_server: RedisServer) -> None:
    topology, waiting = connect(redis_server.url, PATIENCE), 150
    with ThreadPoolExecutor(waiting) as pool:
        replies = [pool.submit(topology.run, [("BLPOP", "test:list", 0)]) for _ in range(waiting)]
        try:
            eventually("all of them", lambda: redis_server.redis.info("clients")["blocked_clients"] == waiting)
        finally:
            redis_server.redis.rpush("test:list", *range(waiting))
    assert sorted(int(reply.result()[0][1]) for reply in replies) == list(range(waiting))


def test_connections_are_bounded_and_those_that_a_burst_has_opened_are_closed_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST", 20)
    monkeypatch.setattr(server_module, "SPARE", 0.2)
    topology, commands = connect(redis_server.url, PATIENCE), 100
    seen = redis_server.redis.info
    before = seen("clients")["connected_clients"]
    with ThreadPoolExecutor(commands) as pool:
        replies = [pool.submit(topology.run, [("BLPOP", "test:list", 0)]) for _ in range(commands)]
        eventually("some of them", lambda: seen("clients")["blocked_clients"] == 20)
        assert seen("clients")["connected_clients"] == before + 20
        redis_server.redis.rpush("test:list", *range(commands))
    assert sorted(int(reply.result()[0][1]) for reply in replies) == list(range(commands))

    def closed() -> bool:
        assert topology.run([("PING",)]) == [b"PONG"]
        return bool(seen("clients")["connected_clients"] <= before + 1)

    eventually("the end of the others", closed)


def test_a_command_does_not_wait_for_ever_for_a_connection(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST", 1)
    topology = connect(redis_server.url, 0.5)
    with ThreadPoolExecutor(2) as pool:
        replies = [pool.submit(topology.run, [("BLPOP", "test:list", 0)]) for _ in range(2)]
        assert {type(reply.result()[0]) for reply in replies} == {redis.TimeoutError}
    assert topology.run([("PING",)]) == [b"PONG"]


def test_a_session_that_is_deleted_meanwhile_is_never_one_that_has_expired(store: Store, place: Place) -> None:
    keys = [f"m/{number}" for number in range(2000)]
    records = [new() for _ in keys]
    writes = [Write(key, None, record, live=False) for key, record in zip(keys, records, strict=True)]
    assert set(store.commit(writes)) == {Outcome.COMMITTED}
    held = [record for record in store.load(keys)[0] if isinstance(record, Record)]
    deletions = [Write(key, record, None, live=False) for key, record in zip(keys, held, strict=True)]
    other = Store(place.redis.url, 2.0, 60, prefix="test")

    def delete() -> None:
        for start in range(0, len(deletions), 10):
            other.commit(deletions[start : start + 10])

    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(delete)
        while not deleting.done():
            found = [head for head in store.heads(keys) if isinstance(head, Record)]
            assert len(found) == len(keys)
            assert not [head for head in found if head.kind == SESSION and not head.live]
        deleting.result()


def test_a_head_has_no_state_whatever_the_format(store: Store, place: Place) -> None:
    record = created(store)
    (key,) = place.redis.redis.keys("test:*")
    data = cast("bytes", place.redis.redis.get(key))
    for value in (data, b"\1" + data[1:45] + data[HEADER_BYTES:]):
        place.redis.redis.set(key, value, keepttl=True)
        (head,) = store.heads([KEY])
        assert isinstance(head, Record)
        assert (head.step, head.state) == (record.step, b"")
