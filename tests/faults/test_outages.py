"""The log and the banner are true about Redis: an outage is one line when it starts and one when it is over."""

import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.client import problem
from tests.support.redis_server import RedisServer, free_port
from tests.support.service import Service
from tests.support.topologies import command
from tests.support.waiting import eventually

ROW = [1, 2, 3, 4, 5, 6, 7, 8]
LOST, BACK = "sessions cannot be stored", "sessions can be stored again"
EMPTIED = "Redis was emptied"
Run = Callable[..., Service]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts a service, which need not get ready."""
    services: list[Service] = []

    def start(url: str, **settings: str | int) -> Service:
        given: dict[str, str | int] = {"WORKERS": 1, "REDIS_TIMEOUT": "0.5", "REDIS_URL": url, **settings}
        services.append(Service(tmp_path / str(len(services)), **given))
        services[-1].launch()
        services[-1].listen()
        return services[-1]

    yield start
    for service in services:
        service.end()


def lines(service: Service, words: str, start: int = 0) -> list[str]:
    """The lines of the log that hold some words, those after the first `start` characters."""
    return [line for line in service.err()[start:].splitlines() if words in line]


@dataclass
class Pair:
    """A service and its Redis, which work; `start` is how long the log was before the test."""

    service: Service
    redis: RedisServer
    start: int = 0

    def lines(self, words: str) -> list[str]:
        """The lines of the log with some words that the test has made."""
        return lines(self.service, words, self.start)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    server = RedisServer().start()
    folder = tmp_path_factory.mktemp("outages")
    try:
        with Service(folder, WORKERS=1, REDIS_TIMEOUT="0.5", REDIS_URL=server.url) as service:
            yield Pair(service, server)
    finally:
        server.end()


@pytest.fixture
def pair(started: Pair) -> Pair:
    """The service with a Redis that works, before the test; a test leaves it so."""
    assert started.service.ready()
    return Pair(started.service, started.redis, len(started.service.err()))


def test_with_a_redis_that_works_the_banner_says_where_sessions_are_stored(pair: Pair) -> None:
    assert f"sessions are stored in Redis, {pair.redis.url}" in pair.service.out()
    assert lines(pair.service, LOST) == []


@pytest.mark.parametrize("lose", ["kill", "stop"])
def test_an_outage_is_one_error_and_its_end_one_line(pair: Pair, lose: str) -> None:
    with pair.service.client() as client:
        address = client.create("digits-rnn")
        assert pair.lines(LOST) == []
        if lose == "kill":
            pair.redis.kill()
        else:
            pair.redis.signal(signal.SIGSTOP)
        for _ in range(5):
            problem(client.post(f"{address}:predict", {"instances": [ROW]}), 503)
        assert client.get("/v2/health/ready").status == 503
        (line,) = pair.lines(LOST)
        assert "[ERROR]" in line
        assert "Redis does not answer" in line
        if lose == "kill":
            pair.redis.start()
        else:
            pair.redis.signal(signal.SIGCONT)
        # Nothing is asked of the service meanwhile.
        (line,) = eventually("the line that says so", lambda: pair.lines(BACK))
        assert "[INFO]" in line
        client.step(address, [ROW])
    assert len(pair.lines(LOST)) == len(pair.lines(BACK)) == 1


def test_a_server_that_comes_back_empty_is_one_error(pair: Pair) -> None:
    with pair.service.client() as client:
        address = client.create("digits-rnn")
        pair.redis.kill()
        problem(client.post(f"{address}:predict", {"instances": [ROW]}), 503)
        assert pair.lines(EMPTIED) == []
        pair.redis.start()
        eventually("the line that says so", lambda: pair.lines(BACK))
        assert pair.lines(EMPTIED) == []
        client.step(address, [ROW])

        pair.redis.redis.flushall()
        for _ in range(2):
            client.get("/v2/health/ready").expect()
        (line,) = pair.lines(EMPTIED)
        assert "[ERROR]" in line
        problem(client.get(address), 404)

        pair.redis.kill()
        shutil.rmtree(pair.redis.folder / "appendonlydir")
        problem(client.get(address), 503)
        pair.redis.start()
        eventually("the second line", lambda: len(pair.lines(EMPTIED)) == 2)
        eventually("readiness", pair.service.ready)


def test_what_is_wrong_with_one_key_is_no_outage(pair: Pair) -> None:
    pair.redis.redis.hset("carryover:{digits-rnn/other}", "a", "b")
    with pair.service.client() as client:
        problem(client.get("/v1/models/digits-rnn/sessions/other"), 503)
    assert pair.lines(LOST) == []
    pair.redis.redis.delete("carryover:{digits-rnn/other}")


def test_a_connection_that_breaks_and_is_made_again_is_no_outage(pair: Pair) -> None:
    with pair.service.client() as client:
        address = client.create("digits-rnn")
        for _ in range(3):
            pair.redis.redis.client_kill_filter(_type="normal", skipme=True)
            client.step(address, [ROW])
    assert pair.lines(LOST) == []


def wrong_port(_: RedisServer) -> tuple[str, str]:
    return f"redis://127.0.0.1:{free_port()}/0", "Redis does not answer"


def wrong_password(server: RedisServer) -> tuple[str, str]:
    command(server.redis, "ACL", "SETUSER", "carryover", "on", ">right", "~*", "&*", "+@all")
    return f"redis://carryover:wrong@127.0.0.1:{server.port}/0", "Redis rejects the service's credentials"


def replica(server: RedisServer) -> tuple[str, str]:
    server.redis.replicaof("127.0.0.1", free_port())
    return server.url, "Redis is a read-only replica"


@pytest.mark.parametrize("make", [wrong_port, wrong_password, replica])
def test_a_start_without_redis_says_so(
    run: Run, redis_server: RedisServer, make: Callable[[RedisServer], tuple[str, str]]
) -> None:
    url, why = make(redis_server)
    service = run(url)
    banner = service.out().splitlines()[0]
    assert "sessions are stored" not in banner
    assert f"sessions cannot be stored in Redis, redis://127.0.0.1:{url[-7:-2].lstrip(':')}/0: {why}" in banner
    assert "wrong" not in service.log()
    (line,) = eventually("the error in the log", lambda: lines(service, LOST))
    assert re.search(rf"\[ERROR\].*{re.escape(why)}", line)
    with service.client() as client:
        for _ in range(3):
            assert why in client.get("/v2/health/ready").json["error"]
    assert len(lines(service, LOST)) == 1


def test_a_start_with_a_server_that_runs_no_scripts_says_so(run: Run) -> None:
    server = RedisServer("--rename-command", "EVALSHA", "nothing").start()
    try:
        service = run(server.url)
        assert "sessions are stored" not in service.out()
        (line,) = lines(service, LOST)
        assert "unknown command" in line
        with service.client() as client:
            assert client.get("/v2/health/ready").status == 503
        assert len(lines(service, LOST)) == 1
    finally:
        server.end()


def test_a_start_without_redis_is_over_when_redis_comes(run: Run) -> None:
    server = RedisServer()
    try:
        service = run(server.url, WORKERS=2)
        server.start()
        eventually("a line of each worker", lambda: len(lines(service, BACK)) == 2)
        assert len(lines(service, LOST)) == 1
    finally:
        server.end()


POLICY = "maxmemory-policy is allkeys-lru, expected noeviction"


def test_a_policy_that_evicts_is_an_error_in_the_log_and_a_warning_in_readiness(
    run: Run, redis_server: RedisServer
) -> None:
    redis_server.redis.config_set("maxmemory-policy", "allkeys-lru")
    service = run(redis_server.url)
    (line,) = lines(service, POLICY)
    assert "[ERROR] sessions can be lost" in line
    with service.client() as client:
        for _ in range(3):
            (warning,) = client.get("/v2/health/ready").expect()["warnings"]
            assert POLICY in warning
        redis_server.redis.config_set("maxmemory-policy", "noeviction")
        assert client.get("/v2/health/ready").expect() == {"ready": True}
        assert len(lines(service, POLICY)) == 1
        assert len(lines(service, "noeviction again")) == 1
        # After an outage, nobody need ask.
        redis_server.kill()
        problem(client.post("/v1/models/digits-rnn/sessions", {}), 503)
        redis_server.start("--maxmemory-policy", "allkeys-lru")
        eventually("the line that says so", lambda: len(lines(service, POLICY)) == 2)


def test_a_policy_that_may_not_be_asked_for_is_no_warning(run: Run, redis_server: RedisServer) -> None:
    redis_server.redis.config_set("maxmemory-policy", "allkeys-lru")
    command(redis_server.redis, "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-@dangerous")
    service = run(redis_server.url.replace("//", "//app:secret@"))
    with service.client() as client:
        for _ in range(3):
            assert client.get("/v2/health/ready").expect() == {"ready": True}
    assert lines(service, "[ERROR]") == []
    denied = command(redis_server.redis, "ACL", "LOG")
    assert sum(entry[entry.index(b"count") + 1] for entry in denied if b"info" in entry) <= 2
