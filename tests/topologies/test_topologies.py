"""Every shape of Redis serves the whole interface; where it fails, that is told, bounded and recovered from."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from redis.crc import key_slot

from carryover import keys
from carryover.errors import ConfigurationError, StoreUnavailableError
from carryover.store import Store
from carryover.store.redis import LONG_IDLE, connect
from carryover.store.redis.server import Server
from tests.support.calls import REPLAYED, fresh, held, post, put_state, state
from tests.support.client import Client, Response, problem, sentence
from tests.support.proxy import Certificates, Proxy
from tests.support.redis_server import RedisServer, documented_rights, free_port
from tests.support.repository import rnn, write_recurrent
from tests.support.service import Launch, Service
from tests.support.sockets import Events
from tests.support.topologies import RedisCluster, Sentinels, command
from tests.support.waiting import eventually, together

ROW = [0.5, -1.0, 2.0]
SESSIONS = "/v1/models/rnn/sessions"
STEP = json.dumps({"instances": [ROW]}).encode()
TIMEOUT = 1
"""Of Redis, in seconds."""
BOUND = 3 * TIMEOUT + 4
"""Seconds within which a request is answered, whatever Redis does: reading, writing, and a busy machine."""
PIXELS = [0.0] * 64


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recurrent(tmp_path_factory.mktemp("few") / "models")


Serve = Callable[[str], Service]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, few: Path) -> Iterator[Serve]:
    """Starts services on the Redis of a URL."""
    with ExitStack() as stack:

        def start(url: str) -> Service:
            service = Service(
                tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=few, REDIS_URL=url, REDIS_TIMEOUT=TIMEOUT
            )
            stack.callback(service.end)
            return service.start()

        yield start


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    running = Sentinels()
    try:
        yield running.start()
    finally:
        running.end()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    running = RedisCluster()
    try:
        yield running.start()
    finally:
        running.end()


@pytest.fixture(scope="module")
def sentinel_service(serve: Serve, sentinels: Sentinels) -> Service:
    return serve(sentinels.url)


@pytest.fixture(scope="module")
def cluster_service(serve: Serve, cluster: RedisCluster) -> Service:
    return serve(cluster.url)


def expected(steps: int) -> Any:
    """What the model says after so many steps of `ROW`."""
    with torch.inference_mode():
        return pytest.approx(rnn()(torch.tensor([[ROW]] * steps))[-1, 0].tolist(), abs=1e-5)


def whole_api(service: Service) -> None:
    """Call everything once."""
    with service.one_client_a_worker() as clients:
        one, other = clients[0], clients[-1]
        address = one.create("rnn", fresh())
        name = address.rsplit("/")[-1]
        problem(post(other, SESSIONS, {"session": name}), 409)
        assert other.step(address, [ROW])["predictions"][0] == expected(1)
        stream = service.stream(address)
        with Events(service.port, address) as events:
            assert getattr(events.next(), "kind", "") == "state"
            assert [stream.step([ROW])["step"] for _ in range(3)] == [2, 3, 4]
            assert events.steps(3) == [2, 3, 4]
        stream.finish()
        assert stream.line() is None
        stream.close()

        _list(other)
        keyed = [
            (f"{address}:predict", {"instances": [ROW]}),
            (f"{address}:fork", {"session": fresh()}),
            (f"{address}:reset", {}),
            (SESSIONS, {}),
            (f"/v1/accumulators/{fresh()}", {"values": [1, 2]}),
        ]
        firsts = [post(one, path, body, key=str(i)) for i, (path, body) in enumerate(keyed)]
        assert {answer.status for answer in firsts} <= {200, 201}
        assert firsts[0].json["predictions"][0] == expected(5)
        for i, (path, body) in enumerate(keyed):
            again = post(other, path, body, key=str(i))
            assert again.body == firsts[i].body
            assert again.headers[REPLAYED] == "true"
        assert one.step_of(address) == 0
        fork = firsts[1].headers["Location"]
        assert other.step(fork, [ROW])["predictions"][0] == expected(6)

        put_state(one, address, state(other, fork)).expect()
        assert held(other, address) == held(one, fork)
        problem(post(one, f"{address}:predict", {"instances": [ROW]}, match='"1"'), 412)
        _many(one, other)

        assert one.delete(address).status == 204
        problem(other.get(address), 410)
        problem(other.get(f"{SESSIONS}/{fresh()}"), 404)


def _list(client: Client) -> None:
    """List sessions that are on every server there is."""
    prefix = fresh()
    names = {f"{prefix}-{number}" for number in range(20)}
    for name in names:
        client.create("rnn", name)
    found: list[str] = []
    page = client.get(f"{SESSIONS}?prefix={prefix}&limit=3").expect()
    while True:
        found += [entry["session"] for entry in page["sessions"]]
        if "next" not in page:
            break
        page = client.get(f"{SESSIONS}?prefix={prefix}&limit=3&cursor={page['next']}").expect()
    assert set(found) == names


def _many(one: Client, other: Client) -> None:
    """Step sessions of many slots in one call, some of which fail."""
    names = [fresh() for _ in range(40)]
    for name in names[1:]:
        one.create("rnn", name)
    body = {"sessions": {name: [ROW] for name in names}}
    first = post(one, f"{SESSIONS}:predict", body, key="k").expect()["sessions"]
    sentence(first.pop(names[0]), 404)
    assert {entry["step"] for entry in first.values()} == {1}
    again = post(other, f"{SESSIONS}:predict", body, key="k").expect()["sessions"]
    again.pop(names[0])
    assert again == first
    second = post(other, f"{SESSIONS}:predict", {"sessions": {name: [ROW] for name in names[1:]}}).expect()
    assert {entry["step"] for entry in second["sessions"].values()} == {2}
    assert all(entry["predictions"][0] == expected(2) for entry in second["sessions"].values())


class TestTheWholeInterface:
    def test_over_tcp(self, faulty: "Faulty") -> None:
        whole_api(faulty.service)

    def test_over_a_unix_socket(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "s"
        server = RedisServer("--unixsocket", str(path)).start()
        try:
            whole_api(serve(f"unix://{path}"))
        finally:
            server.end()

    def test_over_tls_with_a_client_certificate(self, serve: Serve, redis_server: RedisServer, tmp_path: Path) -> None:
        certificates = Certificates(tmp_path)
        with Proxy(redis_server.port, certificates.context) as proxy:
            address = f"rediss://127.0.0.1:{proxy.port}/0"
            whole_api(serve(f"{address}?{certificates.query}"))
            for query in ("", f"?ssl_ca_certs={certificates.ca}"):
                with pytest.raises(StoreUnavailableError):
                    Store(address + query, TIMEOUT, 60).ping()

    def test_over_sentinels(self, sentinel_service: Service) -> None:
        whole_api(sentinel_service)

    def test_over_a_cluster(self, cluster_service: Service, cluster: RedisCluster) -> None:
        whole_api(cluster_service)
        # The sessions of the call for many lay on all masters.
        assert all(master.redis.dbsize() for master in cluster.masters())


@pytest.mark.parametrize("shape", ["sentinels", "cluster"])
def test_a_user_with_the_documented_rights_is_enough(shape: str, serve: Serve, request: pytest.FixtureRequest) -> None:
    place: Sentinels | RedisCluster = request.getfixturevalue(shape)
    query = ""
    if isinstance(place, Sentinels):
        place.allow("watcher", ">secret", "+sentinel|masters")
        query = "?sentinel_username=watcher&sentinel_password=secret"
    for server in place.servers:
        command(server.redis, "ACL", "SETUSER", "carryover", "reset", "on", ">password", *documented_rights())
        command(server.redis, "ACL", "LOG", "RESET")
    service = serve(place.url.replace("://", "://carryover:password@") + query)
    whole_api(service)
    if isinstance(place, RedisCluster):
        _sessions_in_a_slot_that_moves(place, service)
    denied = {entry["object"] for server in place.servers for entry in server.redis.acl_log()}
    assert denied <= {"info"}, "INFO is asked for, and gone without"


def test_a_cluster_that_rejects_the_service_says_why(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        command(server.redis, "ACL", "SETUSER", "narrow", "reset", "on", ">right", "~*", "+@all", "-cluster|slots")
    for password, why in (("wrong", "rejects the service's credentials"), ("right", "does not allow the service's")):
        store = Store(cluster.url.replace("://", f"://narrow:{password}@"), TIMEOUT, 60)
        with pytest.raises(StoreUnavailableError, match=why):
            store.ping()


def _sessions_in_a_slot_that_moves(cluster: RedisCluster, service: Service) -> None:
    """A new session is made where its slot goes to; of another, the keys are on both sides until all have moved."""
    with service.client() as client:
        for new in (True, False):
            name, key = fresh(), fresh("key")
            record = f"carryover:{{rnn/{name}}}"
            slot, source = key_slot(record.encode()), cluster.master_of(record)
            target = next(master for master in cluster.masters() if master is not source)
            address = f"{SESSIONS}/{name}" if new else client.create("rnn", name)
            cluster.move(slot, source, target)
            if new:
                client.create("rnn", name)
            else:
                problem(post(client, f"{address}:predict", {"instances": [ROW]}, key=key), 503)
            assert client.step(address, [ROW])["step"] == 1
            cluster.finish_move(slot, source, target)
            body = {"instances": [ROW]}
            again = eventually("a step", lambda: _good(post(client, f"{address}:predict", body, key=key)))  # noqa: B023 - called at once
            assert again.json["step"] == 2
            assert client.step(address, [ROW])["step"] == 3


@dataclass
class Replicated:
    """A service that has each step confirmed by a replica, which can be stopped."""

    service: Service
    replica: RedisServer


def test_rates_hold_over_the_nodes_of_a_cluster(
    cluster: RedisCluster, few: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Sessions lie on every node, and the rate of their key on one."""
    folder, many, rate = tmp_path_factory.mktemp("rated"), 12, 40
    rights = 'rights = ["predict", "sessions", "admin"]'
    entries = [f'[keys.{name}]\nsha256 = "{keys.digest(name)}"\n{rights}' for name in ("limited", "reader")]
    entries.insert(1, f'rate = "{rate}/day"')
    (folder / "keys.toml").write_text("\n".join(entries))
    limited, reader = {"X-API-Key": "limited"}, {"X-API-Key": "reader"}
    service = Service(folder, MODEL_REPOSITORY=few, REDIS_URL=cluster.url, API_KEYS=folder / "keys.toml")
    try:
        service.launch()
        service.listen()
        with service.clients(4) as clients:
            names = [fresh() for _ in range(many)]
            for name in names:
                clients[0].request("POST", SESSIONS, json.dumps({"session": name}).encode(), limited).expect(201)

            def step(client: Client) -> int:
                done = 0
                for name in names:
                    response = client.request("POST", f"{SESSIONS}/{name}:predict", STEP, limited)
                    assert response.status in (200, 429)
                    done += response.status == 200
                return done

            assert sum(together(step, clients)) == rate - many
            of_limited = f"{SESSIONS}?api_key=limited"
            listed = clients[0].request("GET", of_limited, headers=reader).expect()["sessions"]
            assert sum(session["step"] for session in listed) == rate - many
    finally:
        service.end()


@pytest.fixture(params=["one server", "a cluster"])
def replicated(request: pytest.FixtureRequest, launch: Launch, few: Path) -> Iterator[Replicated]:
    cluster = RedisCluster() if request.param == "a cluster" else None
    servers = [RedisServer(), RedisServer()]
    try:
        if cluster is None:
            for server in servers:
                server.start()
            command(servers[1].redis, "REPLICAOF", "127.0.0.1", servers[0].port)
            url, replica = f"redis://127.0.0.1:{servers[0].port}", servers[1]
        else:
            cluster.start()
            url, replica = cluster.url, cluster.replica_of(cluster.masters()[0])
        settings = {"MODEL_REPOSITORY": few, "REDIS_URL": url, "REDIS_MIN_REPLICAS": 1, "REDIS_REPLICAS_TIMEOUT": "0.2"}
        yield Replicated(launch(**settings), replica)
    finally:
        for server in (*servers, *((cluster,) if cluster else ())):
            server.end()


def test_a_step_is_acknowledged_when_a_replica_has_it(replicated: Replicated) -> None:
    with replicated.service.client() as client:
        addresses = [client.create("rnn", fresh()) for _ in range(30)]  # in a cluster, some are on each master
        for address in addresses:
            client.step(address, [ROW])
        replicated.replica.signal(signal.SIGSTOP)
        body, key = {"instances": [ROW]}, {"key": fresh("key")}
        found = {address: post(client, f"{address}:predict", body, **key) for address in addresses}
        unsure = [address for address, response in found.items() if response.status != 200]
        assert unsure
        for address in unsure:
            assert "not known whether this request was committed" in problem(found[address], 503)
            assert post(client, f"{address}:predict", body, **key).status == 503  # nor is the stored response certain
        eventually("no readiness", lambda: not replicated.service.ready())
        replicated.replica.signal(signal.SIGCONT)
        for address in unsure:
            path = f"{address}:predict"
            retried = eventually("a confirmed response", lambda: _good(post(client, path, body, **key)))  # noqa: B023 - called at once
            assert retried.headers[REPLAYED] == "true"
            assert retried.json["step"] == 2
            assert client.step(address, [ROW])["step"] == 3


def _good(response: Response) -> Response | None:
    return response if response.status == 200 else None


def test_the_replicas_must_have_less_time_than_redis() -> None:
    with pytest.raises(ConfigurationError, match="REDIS_REPLICAS_TIMEOUT=1: expected less than REDIS_TIMEOUT"):
        Store("redis://127.0.0.1:1", 1, 60).require_replicas(1, 1)


@pytest.mark.parametrize("form", ["redis://{}", "redis+sentinel://{}/service", "redis+cluster://{}"])
def test_a_url_may_name_an_option_that_the_service_sets_too(form: str) -> None:
    address = form.format(f"127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        Store(f"{address}?socket_timeout=0.5", TIMEOUT, 60).ping()


def test_the_nodes_of_a_cluster_are_asked_at_once(cluster: RedisCluster) -> None:
    topology = connect(cluster.url, TIMEOUT)
    keys = topology.key_of_each(lambda number: f"carryover:{{list{number}}}")
    assert len(keys) == len(cluster.masters()) == 3
    seconds = TIMEOUT / 2

    def ask() -> float:
        start = time.monotonic()
        assert topology.run([("BLPOP", key, seconds) for key in keys]) == [None] * 3
        return time.monotonic() - start

    for _ in range(2):
        assert seconds <= ask() < 2 * seconds
        idle_since = time.monotonic()
        eventually("idleness", lambda: time.monotonic() - idle_since > LONG_IDLE)  # noqa: B023 - called at once


def test_a_connection_that_was_probed_twice_gives_each_command_its_own_reply(redis_server: RedisServer) -> None:
    server = connect(redis_server.url, TIMEOUT)
    assert isinstance(server, Server)
    assert server.run([("ECHO", "first")]) == [b"first"]
    idle_since = time.monotonic()
    eventually("idleness", lambda: time.monotonic() - idle_since > LONG_IDLE)
    for _ in range(2):  # as two calls do that a slower node keeps waiting
        server.ping_idle()
    assert [server.run([("ECHO", word)]) for word in "abc"] == [[b"a"], [b"b"], [b"c"]]


@dataclass
class Faulty:
    """A service, and a Redis behind a bad wire."""

    service: Service
    server: RedisServer
    proxy: Proxy

    def allow(self, password: str) -> None:
        """Give the service's user a password."""
        command(
            self.server.redis, "ACL", "SETUSER", "carryover", "on", "resetpass", f">{password}", "~*", "&*", "+@all"
        )


@pytest.fixture(scope="module")
def faulty(serve: Serve) -> Iterator[Faulty]:
    server = RedisServer().start()
    try:
        with Proxy(server.port) as proxy:
            made = Faulty.__new__(Faulty)
            made.server, made.proxy = server, proxy
            made.allow("right")
            made.service = serve(f"redis://carryover:right@127.0.0.1:{proxy.port}/0")
            yield made
    finally:
        server.end()


@pytest.fixture
def session(faulty: Faulty) -> Iterator["Stepped"]:
    with faulty.service.client() as client:
        address = client.create("rnn", fresh())
        client.step(address, [ROW])
        yield Stepped(client, address)


@dataclass
class Stepped:
    """A session at step 1."""

    client: Client
    address: str

    def step(self, key: str | None = None) -> Response:
        headers = {} if key is None else {"key": key}
        return post(self.client, f"{self.address}:predict", {"instances": [ROW]}, **headers)

    def refused(self, service: Service, reason: str) -> None:
        """Whether all that needs Redis is rejected in time, and the rest goes on."""
        name = self.address.rsplit("/")[-1]
        calls: list[Callable[[Client], Response]] = [
            lambda client: post(client, f"{self.address}:predict", {"instances": [ROW]}),
            lambda client: post(client, f"{self.address}:predict", {"instances": [ROW]}, key=fresh()),
            lambda client: post(client, SESSIONS, {}),
            lambda client: post(client, f"/v1/accumulators/{fresh()}", {"values": [1]}),
            lambda client: post(client, f"{SESSIONS}:predict", {"sessions": {name: [ROW]}}),
        ]

        def timed(call: Callable[[Client], Response]) -> tuple[Response, float]:
            with service.client() as client:
                start = time.monotonic()
                return call(client), time.monotonic() - start

        for answer, took in together(timed, calls):
            assert took < BOUND
            if answer.status == 200:
                text = sentence(answer.json["sessions"][name], 503)
            else:
                text = problem(answer, 503)
                assert answer.headers["Retry-After"] == "1"
            assert reason in text
        start = time.monotonic()
        post(self.client, "/v1/models/digits-batchnorm:predict", {"instances": [PIXELS]}).expect()
        self.client.get("/v2/health/live").expect()
        assert time.monotonic() - start < BOUND

    def goes_on(self, service: Service) -> None:
        """Wait for readiness; then the session goes on at step 1."""
        eventually("readiness", service.ready)
        assert self.step().expect()["step"] == 2
        assert self.step().expect()["predictions"][0] == expected(3)


class TestOneServerThatFails:
    def test_a_stopped_server(self, faulty: Faulty, session: Stepped) -> None:
        faulty.server.signal(signal.SIGSTOP)
        try:
            session.refused(faulty.service, "does not answer")
            assert not faulty.service.ready()
        finally:
            faulty.server.signal(signal.SIGCONT)
        session.goes_on(faulty.service)

    def test_a_killed_server(self, faulty: Faulty, session: Stepped) -> None:
        faulty.server.kill()
        try:
            session.refused(faulty.service, "does not answer")
        finally:
            faulty.server.start()
            faulty.allow("right")
        session.goes_on(faulty.service)

    def test_a_server_that_is_slow_is_waited_for(self, faulty: Faulty, session: Stepped) -> None:
        faulty.proxy.latency = TIMEOUT / 5
        try:
            start = time.monotonic()
            session.step().expect()
            assert time.monotonic() - start >= TIMEOUT / 5
        finally:
            faulty.proxy.latency = 0.0

    def test_a_server_that_is_too_slow_is_not(self, faulty: Faulty, session: Stepped) -> None:
        faulty.proxy.latency = 3 * TIMEOUT
        try:
            session.refused(faulty.service, "in time")
        finally:
            faulty.proxy.latency = 0.0
        session.goes_on(faulty.service)

    def test_a_read_only_replica(self, faulty: Faulty, session: Stepped) -> None:
        faulty.server.redis.replicaof("127.0.0.1", 1)
        try:
            session.refused(faulty.service, "read-only")
            assert session.client.step_of(session.address) == 1
            assert not faulty.service.ready()
        finally:
            faulty.server.redis.replicaof("NO", "ONE")
        session.goes_on(faulty.service)

    def test_a_full_server(self, faulty: Faulty, session: Stepped) -> None:
        faulty.server.redis.config_set("maxmemory", 1)
        try:
            session.refused(faulty.service, "full")
            assert session.client.step_of(session.address) == 1
        finally:
            faulty.server.redis.config_set("maxmemory", 0)
        session.goes_on(faulty.service)

    def test_a_wrong_password(self, faulty: Faulty, session: Stepped) -> None:
        faulty.allow("other")
        faulty.proxy.cut()
        try:
            session.refused(faulty.service, "credentials")
            assert not faulty.service.ready()
        finally:
            faulty.allow("right")
        session.goes_on(faulty.service)

    def test_a_user_that_may_not(self, faulty: Faulty, session: Stepped) -> None:
        command(faulty.server.redis, "ACL", "SETUSER", "carryover", "-evalsha", "-set")
        try:
            session.refused(faulty.service, "credentials")
        finally:
            faulty.allow("right")
        session.goes_on(faulty.service)

    def test_scripts_that_are_forgotten_in_the_middle(self, faulty: Faulty, session: Stepped) -> None:
        for number in range(20):
            faulty.server.redis.script_flush()
            assert session.step().expect()["step"] == number + 2

    def test_scripts_that_are_forgotten_under_many_clients(self, faulty: Faulty, session: Stepped) -> None:
        over = threading.Event()

        def steps(client: Client) -> int:
            for key in range(25):
                keyed(client, session.address, f"{id(client)}-{key}")
            return 25

        def flush() -> None:
            while not over.wait(0.005):
                faulty.server.redis.script_flush()

        flusher = threading.Thread(target=flush)
        flusher.start()
        with faulty.service.clients(4) as clients:
            taken = sum(together(steps, clients))
        over.set()
        flusher.join()
        assert session.client.step_of(session.address) == 1 + taken

    def test_connections_that_lead_nowhere_any_more(self, faulty: Faulty, session: Stepped) -> None:
        """As when Redis comes back at another address: nothing was closed, and nothing is answered."""
        idle_since = time.monotonic()
        faulty.proxy.strand()
        eventually("idleness", lambda: time.monotonic() - idle_since > LONG_IDLE)
        with faulty.service.one_client_a_worker() as clients:
            steps = [post(client, f"{session.address}:predict", {"instances": [ROW]}).expect() for client in clients]
        assert [step["step"] for step in steps] == [2, 3]

    @pytest.mark.parametrize("lost", ["request", "reply"])
    def test_a_commit_whose_connection_breaks_is_made_once(self, lost: str, faulty: Faulty, session: Stepped) -> None:
        """Of a thousand pieces on the wire every third is lost, with its connection."""
        numbers = count(1)

        def every_third(_: int, data: bytes) -> bool:
            return b"EVALSHA" not in data or next(numbers) % 3 > 0

        waiting: set[int] = set()

        def note(connection: int, data: bytes) -> bool:
            if b"EVALSHA" in data:
                waiting.add(connection)
            return True

        def lose(connection: int, _: bytes) -> bool:
            if connection not in waiting:
                return True
            waiting.discard(connection)
            return next(numbers) % 3 > 0

        if lost == "request":
            faulty.proxy.on_request = every_third
        else:
            faulty.proxy.on_request, faulty.proxy.on_reply = note, lose
        try:
            for number in range(30):
                assert keyed(session.client, session.address, str(number))["step"] == number + 2
                # Without a key as well: the commit itself says that it was made before.
                answer = session.step()
                assert answer.status in (200, 503)
                if answer.status == 503:
                    assert "not known whether" in problem(answer, 503)
                put_back(session.client, session.address, number + 2)
        finally:
            faulty.proxy.on_request = faulty.proxy.on_reply = lambda _, __: True
        assert next(numbers) > 30


def put_back(client: Client, address: str, step: int) -> None:
    """Bring a session back to a step."""
    while client.step_of(address) != step:
        data = state(client, address)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        header["__metadata__"]["step"] = str(step)
        said = json.dumps(header).encode()
        put_state(
            client, address, len(said).to_bytes(8, "little") + said + data[8 + int.from_bytes(data[:8], "little") :]
        )


def keyed(client: Client, address: str, key: str, statuses: set[int] | None = None) -> Any:
    """Step a session, with one key, until there is a response."""

    def ask() -> Any:
        start = time.monotonic()
        answer = post(client, f"{address}:predict", {"instances": [ROW]}, key=key)
        assert time.monotonic() - start < BOUND
        if statuses is not None:
            statuses.add(answer.status)
        if answer.status in (409, 503):
            problem(answer, answer.status)
            assert answer.headers["Retry-After"] == "1"
            return None
        return answer.expect()

    return eventually("a response", ask)


def _through(service: Service, names: list[str], happen: Callable[[], object]) -> set[int]:
    """Step sessions while something happens; each step is made once. Returns the statuses that there were."""
    statuses: set[int] = set()
    over = threading.Event()
    with service.client() as client:
        addresses = [client.create("rnn", name) for name in names]

    def steps(address: str) -> int:
        taken = 0
        with service.client() as client:
            while not over.is_set() or taken < 5:
                taken += 1
                assert keyed(client, address, str(taken), statuses)["step"] == taken
                if over.is_set() and taken >= 5:
                    break
        return taken

    def then() -> None:
        try:
            happen()
        finally:
            over.set()

    happening = threading.Thread(target=then)
    happening.start()
    taken = together(steps, addresses)
    happening.join()
    with service.client() as client:
        for address, number in zip(addresses, taken, strict=True):
            assert client.step_of(address) == number
            predictions = client.step(address, [ROW])["predictions"]
            assert predictions[0] == expected(number + 1)
    return statuses


def test_sentinels_fail_over_in_the_middle(sentinels: Sentinels, sentinel_service: Service) -> None:
    def happen() -> None:
        sentinels.revive(sentinels.failover())

    statuses = _through(sentinel_service, [fresh() for _ in range(4)], happen)
    assert statuses <= {200, 409, 503}
    assert 503 in statuses
    whole_api(sentinel_service)


def scripts_run(server: RedisServer) -> int:
    stats: Any = server.redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_a_master_that_the_sentinels_name_no_more_is_left_though_it_runs(
    sentinels: Sentinels, sentinel_service: Service
) -> None:
    former, next_ = sentinels.master(), sentinels.replica()
    with sentinel_service.client() as client:
        address = client.create("rnn", fresh())
        client.step(address, [ROW])

        def reached() -> bool:
            client.step(address, [ROW])
            return scripts_run(next_) > before

        eventually("a replica in step", sentinels.in_step)
        before = scripts_run(next_)
        # It stays a master that takes writes, as after a partition of the network: the sentinels do not reach it.
        command(former.redis, "ACL", "SETUSER", "default", "-replicaof", "-slaveof", "-config", "-client")
        try:
            sentinels.switch()
            eventually("a step on the new master", reached)
            assert former.redis.role()[0] == b"master"
            reached_step = client.step_of(address)
        finally:
            command(former.redis, "ACL", "SETUSER", "default", "+@all")
        former.redis.replicaof("127.0.0.1", next_.port)
        eventually("a replica in step", sentinels.in_step)
        assert client.step(address, [ROW])["step"] == reached_step + 1


def test_a_cluster_fails_over_in_the_middle(cluster: RedisCluster, cluster_service: Service) -> None:
    names = [fresh() for _ in range(6)]

    def happen() -> None:
        master = cluster.master_of(f"carryover:{{rnn/{names[0]}}}")
        cluster.kill(master)
        cluster.revive(master)

    statuses = _through(cluster_service, names, happen)
    assert statuses <= {200, 409, 503}
    whole_api(cluster_service)


def test_a_cluster_hands_over_in_the_middle(cluster: RedisCluster, cluster_service: Service) -> None:
    names = [fresh() for _ in range(6)]

    def happen() -> None:
        cluster.hand_over(cluster.master_of(f"carryover:{{rnn/{names[0]}}}"))

    assert _through(cluster_service, names, happen) <= {200, 409, 503}


def test_a_stopped_node_of_a_cluster_holds_up_no_call_for_many(cluster: RedisCluster, cluster_service: Service) -> None:
    names = [fresh() for _ in range(30)]
    for server in cluster.servers:
        server.redis.config_set("cluster-node-timeout", 60_000)  # nobody takes its place
    with cluster_service.client() as client:
        for name in names:
            client.create("rnn", name)
        master = cluster.master_of(f"carryover:{{rnn/{names[0]}}}")
        stopped = {name for name in names if cluster.master_of(f"carryover:{{rnn/{name}}}") is master}
        master.signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            entries = post(client, f"{SESSIONS}:predict", {"sessions": {name: [ROW] for name in names}}).expect()
            took = time.monotonic() - start
        finally:
            master.signal(signal.SIGCONT)
        assert took < BOUND
        # Those of the other nodes are not held to blame.
        for name, entry in entries["sessions"].items():
            if name in stopped:
                sentence(entry, 503)
            else:
                assert entry["step"] == 1
        eventually("a complete cluster", cluster.complete)
        eventually("readiness", cluster_service.ready)


def test_a_full_node_of_a_cluster_fails_for_its_own_sessions_only(
    cluster: RedisCluster, cluster_service: Service
) -> None:
    names = [fresh() for _ in range(20)]
    with cluster_service.client() as client:
        for name in names:
            client.create("rnn", name)
        master = cluster.master_of(f"carryover:{{rnn/{names[0]}}}")
        master.redis.config_set("maxmemory", 1)
        try:
            entries = post(client, f"{SESSIONS}:predict", {"sessions": {name: [ROW] for name in names}}).expect()
        finally:
            master.redis.config_set("maxmemory", 0)
        for name, entry in entries["sessions"].items():
            full = cluster.master_of(f"carryover:{{rnn/{name}}}") is master
            if full:
                assert "full" in sentence(entry, 503)
            else:
                assert entry["step"] == 1
            assert client.step_of(f"{SESSIONS}/{name}") == (0 if full else 1)
