"""Killed workers, a Redis that is down, full or stuck, the end of the service: nothing that was answered is lost."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from websockets.sync.client import ClientConnection

from carryover.engine.record_cache import DOUBTS, STEADY
from models.rnn import RNNClassifier
from tests.support.client import Client, Response, problem, sentence
from tests.support.connections import Stream, Wire, line_of
from tests.support.paths import CHECKPOINTS
from tests.support.processes import runs
from tests.support.redis_server import RedisServer, free_port, servers_on
from tests.support.repository import spec, write_model
from tests.support.service import Launch, Service
from tests.support.sockets import Events, ending, speak, talking
from tests.support.sources import lingering
from tests.support.waiting import at_once, eventually

ROW = [1, 2, 3, 4, 5, 6, 7, 8]
PROMPT = 20.0
"""Seconds that are less than the time limit of a graceful stop (30), and enough for a busy machine."""


@dataclass
class Tally:
    """What one client has seen: the steps it was told of, and how many of its calls were cut off."""

    steps: list[int] = field(default_factory=list)
    cut: int = 0


def keep_calling(service: Service, ended: threading.Event, call: Callable[[Client], int], tally: Tally) -> Tally:
    """Call until told to stop, over a new connection after each that breaks."""
    while not ended.is_set():
        with service.client() as client:
            try:
                while not ended.is_set():
                    tally.steps.append(call(client))
            except (OSError, HTTPException):
                tally.cut += 1
    return tally


def more_than(tallies: list[Tally], count: int) -> bool:
    return sum(len(tally.steps) for tally in tallies) > count


def others(service: Service, victims: list[psutil.Process]) -> bool:
    return not set(victims) & set(service.workers())


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of the models that come with it, not yet started; whenever it is, its sessions are there again."""
    made = Service(tmp_path_factory.mktemp("lasting"))
    yield made
    made.end()


@pytest.fixture
def service(lasting: Service) -> Service:
    """The lasting service, which runs: a test may have ended it, in whatever way."""
    if not lasting.runs():
        lasting.end()
        lasting.start()
    return lasting


def test_a_worker_that_is_told_to_stop_before_it_serves_ends(service: Service) -> None:
    def both() -> list[psutil.Process]:
        return found if len(found := service.workers()) == 2 else []

    for _ in range(6):
        workers = eventually("both workers", both)
        workers[0].kill()
        (new,) = eventually("another worker", lambda known=workers: set(service.workers()) - set(known))  # type: ignore[misc]
        new.terminate()
        new.wait(10)
    eventually("both workers", both)


def test_killing_workers_loses_nothing_that_was_answered(service: Service) -> None:
    ended = threading.Event()
    tallies = [Tally() for _ in range(9)]
    with service.client() as client:
        own = [client.create("digits-rnn") for _ in range(4)]

    def step(address: str) -> Callable[[Client], int]:
        return lambda client: int(client.step(address, [ROW])["step"])

    def add(client: Client) -> int:
        answer = client.post("/v1/accumulators/killed", {"values": [1, 2]}).expect()
        assert answer["sum"] == 3 * answer["step"]
        assert answer["count"] == 2 * answer["step"]
        return int(answer["step"])

    calls = [*map(step, own), add, add, add, add]

    def kill() -> Tally:
        try:
            for round_ in range(6):
                made = sum(len(tally.steps) for tally in tallies)
                eventually("more answers", partial(more_than, tallies, made + 60))
                victims = service.workers()[: 1 + round_ // 4]
                for victim in victims:
                    victim.kill()
                eventually("others", partial(others, service, victims))
                eventually("both workers", lambda: len(service.workers()) == 2)
        finally:
            ended.set()
        return Tally()

    def run(number: int) -> Callable[[], Tally]:
        return lambda: keep_calling(service, ended, calls[number], tallies[number])

    at_once(kill, *(run(number) for number in range(8)))
    assert sum(tally.cut for tally in tallies) > 0
    for tally in tallies[:8]:
        assert all(one < next_ for one, next_ in pairwise(tally.steps))

    reference = RNNClassifier()
    reference.load_state_dict(load_file(CHECKPOINTS / "digits-rnn/1/weights.safetensors"))
    reference.eval()
    with service.client() as client:
        for address, tally in zip(own, tallies, strict=False):
            reached = client.step_of(address)
            # A call that was cut off may have been made, or not; one that was answered was made, once.
            assert max(tally.steps) <= reached <= len(tally.steps) + tally.cut
            last = client.step(address, [ROW])["predictions"][0]["probabilities"]
            reference.reset()
            with torch.inference_mode():
                expected = reference(torch.tensor(ROW).float().expand(reached + 1, 1, 8))[-1, 0]
            assert_close(torch.tensor(last), expected, rtol=0, atol=1e-4)
        totals = client.get("/v1/accumulators/killed").expect()
    answered = sorted(step for tally in tallies[4:] for step in tally.steps)
    assert len(set(answered)) == len(answered)
    assert answered[-1] <= totals["step"] <= len(answered) + sum(tally.cut for tally in tallies[4:])
    assert totals["count"] == 2 * totals["step"]
    assert totals["sum"] == 3 * totals["step"]


def test_a_stream_is_cut_with_its_worker_and_its_session_goes_on(service: Service) -> None:
    with service.client() as client:
        address = client.create("digits-rnn")
    stream = service.stream(address)
    with Events(service.port, address) as events, talking(service.port, address) as socket:
        first = events.next()
        for _ in range(5):
            stream.step([ROW])
            answered = speak(socket, [ROW])["step"]
        assert events.steps(10) == list(range(1, 11))
        for worker in service.workers():
            worker.kill()
        assert stream.wire.rest() == b""
        assert ending(socket) == ([], 1006, "")
        assert events.wire.rest() == b""
    stream.close()
    eventually("new workers", service.ready)
    assert first is not None
    with Events(service.port, address, last=first.id) as events, talking(service.port, address) as socket:
        assert events.steps(10) == list(range(1, 11))
        assert speak(socket, [ROW])["step"] == answered + 1
        assert events.steps(1) == [answered + 1]
    again = service.stream(address)
    assert again.step([ROW])["step"] == answered + 2
    again.close()


def test_sessions_survive_a_restart_of_the_service(service: Service) -> None:
    with service.client() as client:
        address = client.create("digits-rnn", ttl=1000)
        first = client.step(address, [ROW, ROW])
        before = client.get(address).expect()
        totals = client.post("/v1/accumulators/kept", {"values": [1, 2, 3]}).expect()
        forgotten = client.create("digits-rnn")
        client.delete(forgotten)
    assert service.stop() == 0
    assert servers_on(service.data) == []
    with service.start().client() as client:
        after = client.get(address).expect()
        for told in ("last_used", "expires"):
            # Told by the time that Redis says is left, and a clock.
            moved = datetime.fromisoformat(after.pop(told)) - datetime.fromisoformat(before.pop(told))
            assert abs(moved) < timedelta(seconds=5)
        assert after == before
        assert client.get("/v1/accumulators/kept").expect() == totals
        problem(client.get(forgotten), 410)
        last = client.step(address, [ROW])
        whole = client.step(client.create("digits-rnn"), [ROW] * 3)
        assert last["step"] == first["step"] + 1
        assert_close(
            torch.tensor(last["predictions"][0]["probabilities"]),
            torch.tensor(whole["predictions"][2]["probabilities"]),
            rtol=0,
            atol=1e-5,
        )


def test_a_worker_ends_though_its_interpreter_would_not(launch: Launch, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "lingering", lingering.Lingering(), [spec((-1, 1))])
    service = launch(MODEL_REPOSITORY=tmp_path / "models")
    with service.client() as client:
        client.post("/v1/models/lingering:predict", {"instances": [[1.0]]}).expect()
    start = time.monotonic()
    assert service.stop(signal.SIGTERM) == 0
    assert time.monotonic() - start < PROMPT


def test_no_worker_outlives_a_master_that_is_killed(service: Service) -> None:
    workers = service.workers()
    service.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=PROMPT)
    assert alive == []


def told_why(sockets: list[ClientConnection], follows: list[Events]) -> None:
    """Check that the last thing that each is told is why it ends."""
    for socket in sockets:
        (last,), code, reason = ending(socket)
        assert last["type"] == "urn:carryover:stream-ended"
        assert (code, reason) == (1012, "the service is stopping")
    for events in follows:
        told = [events.next() for _ in range(3)]
        assert [event and event.kind for event in told] == ["state", "ended", None]
        assert "the service is stopping" in sentence(told[1].data if told[1] else None, 503)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """What is closed after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_the_service_ends_soon_though_connections_and_streams_are_open(
    service: Service, held: ExitStack, number: signal.Signals
) -> None:
    with service.client() as client:
        address = client.create("digits-rnn")
    idle = [service.client() for _ in range(20)]
    for client in idle:
        client.get("/v2/health/live").expect()
    silent = [Wire(service.port) for _ in range(5)]
    streams = [service.stream(address) for _ in range(20)]
    steps = [stream.step([ROW])["step"] for stream in streams]
    fresh = [service.stream(address) for _ in range(5)]
    follows = [Events(service.port, address) for _ in range(5)]
    sockets = [held.enter_context(talking(service.port, address)) for _ in range(5)]
    workers = service.workers()
    start = time.monotonic()
    if number is signal.SIGINT:
        # A terminal sends it to all of the foreground's processes.
        for process in workers:
            process.send_signal(number)
    assert service.stop(number) == 0
    assert time.monotonic() - start < PROMPT
    assert steps == list(range(1, 21))
    for stream in streams + fresh:
        if number is signal.SIGTERM:
            last = stream.line()
            assert last["type"] == "urn:carryover:stream-ended"
            assert "the service is stopping" in sentence(last, 503)
            assert stream.line() is None
        stream.close()
    if number is signal.SIGTERM:
        told_why(sockets, follows)
    for events in follows:
        events.close()
    for client in idle:
        client.close()
    for wire in silent:
        assert wire.rest() == b""
        wire.close()
    assert servers_on(service.data) == []
    assert not any(map(runs, workers))
    with service.start().client() as client:
        assert client.step_of(address) == 20


def test_a_stop_answers_everything_that_was_accepted(launch: Launch, few: Path) -> None:
    service = launch(MODEL_REPOSITORY=few)
    with service.client() as client:
        addresses = [client.create("slow") for _ in range(8)]
        client.step(addresses[0], [0])
    wires = [Wire(service.port) for _ in addresses]
    body = line_of([1])
    for wire, address in zip(wires, addresses, strict=True):
        # One request goes before, so that the connection surely is a worker's.
        wire.send(f"GET {address} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wire.response().expect()
        head = f"POST {address}:predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        wire.send(head.encode() + body)
    assert service.stop() == 0
    for number, wire in enumerate(wires):
        answer = wire.response()
        assert answer.expect()["step"] == (2 if number == 0 else 1)
        wire.close()
    again = launch(MODEL_REPOSITORY=few, DATA_DIR=service.data)
    with again.client() as client:
        assert [client.step_of(address) for address in addresses] == [2] + [1] * 7


def test_a_stop_ends_streams_that_are_busy_and_loses_none_of_their_lines(service: Service) -> None:
    with service.client() as client:
        addresses = [client.create("digits-rnn") for _ in range(8)]
    answered = [0] * len(addresses)

    def run(number: int) -> Callable[[], int]:
        def work() -> int:
            stream = service.stream(addresses[number])
            try:
                while "step" in (answer := stream.step([ROW])):
                    answered[number] += 1
                    assert answer["step"] == answered[number]
                assert answer["type"] == "urn:carryover:stream-ended"
            except OSError:
                pass  # a line that was sent after the end
            stream.close()
            return answered[number]

        return work

    def stop() -> int:
        eventually("all streams", lambda: min(answered) > 10)
        start = time.monotonic()
        assert service.stop() == 0
        return int(time.monotonic() - start)

    seconds = at_once(stop, *(run(number) for number in range(8)))[0]
    with service.start().client() as client:
        assert [client.step_of(address) for address in addresses] == answered
    assert seconds < PROMPT


def test_a_stop_waits_for_a_slow_client_no_longer_than_it_says(launch: Launch) -> None:
    service = launch(GRACEFUL_TIMEOUT=2)
    wire = Wire(service.port)
    wire.send(b"POST /v1/models/digits-rnn:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
    with service.client() as client:
        client.get("/v2/health/live").expect()
    start = time.monotonic()
    service.stop()
    assert time.monotonic() - start < PROMPT
    assert b" 200 " not in wire.rest()
    wire.close()
    assert servers_on(service.data) == []


def test_the_services_own_valkey_is_started_again_when_it_dies(service: Service) -> None:
    with service.client() as client:
        address = client.create("digits-rnn")
        assert client.step(address, [ROW])["step"] == 1
        valkey = service.valkey()
        assert valkey is not None
        until_on_disk(service, address, 2)
        valkey.kill()
        eventually("another Valkey", lambda: service.valkey() not in (None, valkey))
        eventually("readiness", service.ready)
        assert client.step(address, [ROW])["step"] == 2
    assert service.stop() == 0
    assert servers_on(service.data) == []


def until_on_disk(service: Service, address: str, writes: int) -> None:
    """Wait until the append-only file holds so many writes of a session: a sync of the disk may hold them up."""
    files = list((service.data / "appendonlydir").glob("*.incr.aof"))
    assert files
    name = address.rpartition("/")[2].encode()
    eventually("all writes", lambda: sum(file.read_bytes().count(name) for file in files) >= writes)


def test_sessions_survive_when_everything_is_killed(service: Service) -> None:
    with service.client() as client:
        address = client.create("digits-rnn")
        assert client.step(address, [ROW])["step"] == 1
    workers = service.workers()
    service.process.kill()
    eventually("the workers' end", lambda: not any(map(runs, workers)))
    service.stop(signal.SIGKILL)
    service.start()
    assert len(servers_on(service.data)) == 1
    with service.client() as client:
        assert client.step(address, [ROW])["step"] == 2
    assert service.stop() == 0
    assert servers_on(service.data) == []


@dataclass
class Pair:
    """A service, the Redis that it was given, and a session there that is at step 1."""

    service: Service
    redis: RedisServer
    address: str

    def stateless(self) -> None:
        """Predictions that need no Redis go on."""
        with self.service.client() as client:
            assert len(client.predict("digits-batchnorm", [[0] * 64])) == 1
            assert len(client.predict("digits-rnn", [ROW])) == 1
            client.get("/v1/models").expect()
            client.get("/v2/health/live").expect()

    def unavailable(self, *, reads: bool = False) -> None:
        """Everything that needs Redis says so; with `reads`, what only reads goes on."""
        name = self.address.rpartition("/")[2]
        with self.service.client() as client:
            answers = [
                client.post(f"{self.address}:predict", {"instances": [ROW]}),
                client.post("/v1/models/digits-rnn/sessions", {}),
                client.delete(self.address),
                client.post("/v1/accumulators/faults", {"values": [1]}),
            ]
            if not reads:
                answers += [client.get(self.address), client.get("/v1/accumulators/faults")]
            for answer in answers:
                self.says_so(answer)
            many = client.post("/v1/models/digits-rnn/sessions:predict", {"sessions": {name: [ROW]}}).expect()
            assert "Redis" in sentence(many["sessions"][name], 503)

    @staticmethod
    def says_so(answer: Response) -> None:
        assert "Redis" in problem(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1

    def recovered(self) -> None:
        """Without a restart, the session goes on from where it stood."""
        workers = {worker.pid for worker in self.service.workers()}
        eventually("readiness", self.service.ready)
        with self.service.one_client_a_worker() as clients:
            for client in clients:
                before = client.step_of(self.address)
                assert client.step(self.address, [ROW])["step"] == before + 1
        assert {worker.pid for worker in self.service.workers()} == workers


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    server = RedisServer().start()
    running = Service(tmp_path_factory.mktemp("faults"), REDIS_URL=server.url, REDIS_TIMEOUT="0.5")
    try:
        running.start()
        with running.client() as client:
            address = client.create("digits-rnn", ttl=100_000)
            client.step(address, [ROW])
        yield Pair(running, server, address)
    finally:
        running.end()
        server.end()


@pytest.fixture
def pair(started: Pair) -> Iterator[Pair]:
    """The service as it should be, before the test and after it."""
    started.recovered()
    with started.service.client() as client:
        before = client.step_of(started.address)
        yield started
    started.recovered()
    with started.service.client() as client:
        # What was refused was not carried out: since then only the two clients of `recovered` have made a step.
        assert client.step_of(started.address) == before + 2
        problem(client.get("/v1/accumulators/faults"), 404)


def test_the_service_starts_without_its_redis_and_is_ready_when_that_comes(tmp_path: Path) -> None:
    server = RedisServer()
    service = Service(tmp_path, REDIS_URL=server.url, WORKERS=1)
    try:
        service.launch()
        service.listen()
        unready(service)
        with service.client() as client:
            assert len(client.predict("digits-rnn", [ROW])) == 1
            Pair.says_so(client.post("/v1/models/digits-rnn/sessions", {}))
            server.start()
            eventually("readiness", service.ready)
            assert client.step(client.create("digits-rnn"), [ROW])["step"] == 1
    finally:
        service.end()
        server.end()


def unready(service: Service) -> None:
    with service.client() as client:
        answer = client.get("/v2/health/ready")
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json["ready"] is False
        assert "Redis" in sentence(answer.json, 503)


def test_without_redis_sessions_are_503_and_stateless_prediction_goes_on(pair: Pair) -> None:
    pair.redis.kill()
    try:
        pair.unavailable()
        pair.stateless()
        unready(pair.service)
    finally:
        pair.redis.start()


def test_without_redis_a_step_without_a_key_has_an_unknown_outcome_only_where_it_finds_that_out(pair: Pair) -> None:
    with pair.service.one_client_a_worker() as (client, *_):
        addresses = [client.create("digits-rnn") for _ in range(4)]
        for address in addresses:
            for _ in range(DOUBTS + STEADY + 1):
                client.step(address, [ROW])
        pair.redis.kill()
        try:
            answers = [client.post(f"{address}:predict", {"instances": [ROW]}) for address in addresses]
        finally:
            pair.redis.start()
        for answer in answers:
            pair.says_so(answer)
        assert not any("not known" in problem(answer, 503) for answer in answers[1:])


def test_without_redis_a_streams_lines_are_503_and_the_stream_goes_on(pair: Pair) -> None:
    with pair.service.client() as client:
        address = client.create("digits-rnn")
    stream = pair.service.stream(address)
    assert stream.step([ROW])["step"] == 1
    pair.redis.kill()
    try:
        assert "Redis" in sentence(stream.step([ROW]), 503)
        late = Stream(pair.service.port, address)
        pair.says_so(late.wire.response())
        late.close()
    finally:
        pair.redis.start()
    eventually("readiness", pair.service.ready)
    assert stream.step([ROW])["step"] == 2
    stream.close()


def test_events_go_on_when_redis_is_back(pair: Pair) -> None:
    with pair.service.client() as client:
        address = client.create("digits-rnn")
        with Events(pair.service.port, address) as events, Events(pair.service.port, address) as others:
            for each in (events, others):
                assert getattr(each.next(), "kind", "") == "state"
            client.step(address, [ROW])
            assert events.steps(1) == [1]
            pair.redis.kill()
            try:
                pair.says_so(client.get(f"{address}/events"))
                assert events.wire.silent()
            finally:
                pair.redis.start()
            eventually("readiness", pair.service.ready)
            client.step(address, [ROW])
            assert events.steps(1) == [2]
            assert others.steps(2) == [1, 2]


def test_sessions_are_looked_at_only_while_they_are_followed(pair: Pair) -> None:
    def looks() -> int:
        found: Any = pair.redis.redis.info("commandstats")
        return int(found.get("cmdstat_getrange", {"calls": 0})["calls"])

    def still() -> bool:
        before = looks()
        time.sleep(0.3)
        return looks() == before

    with pair.service.client() as client:
        address = client.create("digits-rnn")
    eventually("no looks", still)
    with Events(pair.service.port, address) as events:
        assert getattr(events.next(), "kind", "") == "state"
        before = looks()
        eventually("looks", lambda: looks() > before + 5)
    start = time.monotonic()
    eventually("no more looks", still)
    assert time.monotonic() - start < PROMPT / 4


def test_the_followers_of_a_session_in_one_worker_read_its_state_together(pair: Pair) -> None:
    def reads() -> int:
        found: Any = pair.redis.redis.info("commandstats")
        return int(found["cmdstat_get"]["calls"])

    followers = 16
    with pair.service.client() as client, ExitStack() as opened:
        address = client.create("digits-rnn")
        all_of_them = [
            opened.enter_context(Events(pair.service.port, address, "?state=true")) for _ in range(followers)
        ]
        for events in all_of_them:
            assert getattr(events.next(), "kind", "") == "state"
        before = reads()
        client.step(address, [ROW])
        told = [events.next() for events in all_of_them]
        assert reads() - before <= followers / 2
    assert len({str(event and event.data) for event in told}) == 1


def test_with_redis_stuck_the_response_is_503_within_a_bounded_time(pair: Pair) -> None:
    pair.redis.signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pair.service.client() as client:
            pair.says_so(client.post(f"{pair.address}:predict", {"instances": [ROW]}))
            pair.says_so(client.get(pair.address))
        assert time.monotonic() - start < PROMPT
        pair.stateless()
        unready(pair.service)

        def ask() -> None:
            with pair.service.client() as client:
                pair.says_so(client.post(f"{pair.address}:predict", {"instances": [ROW]}))

        start = time.monotonic()
        at_once(*[ask] * 16)
        assert time.monotonic() - start < PROMPT
    finally:
        pair.redis.signal(signal.SIGCONT)


def test_with_redis_full_nothing_new_is_kept(pair: Pair) -> None:
    pair.redis.redis.config_set("maxmemory-policy", "noeviction")
    pair.redis.redis.config_set("maxmemory", 1)
    try:
        with pair.service.client() as client:
            for answer in (
                client.post(f"{pair.address}:predict", {"instances": [ROW]}),
                client.post("/v1/models/digits-rnn/sessions", {}),
                client.post("/v1/accumulators/faults", {"values": [1]}),
            ):
                assert "full" in problem(answer, 503)
                assert int(answer.headers["Retry-After"]) >= 1
            client.get(pair.address).expect()
        pair.stateless()
    finally:
        pair.redis.redis.config_set("maxmemory", 0)


def test_with_redis_a_read_only_replica_nothing_is_written_and_it_is_not_ready(pair: Pair) -> None:
    # Of a master that never comes: the replica keeps what it has.
    pair.redis.redis.replicaof("127.0.0.1", free_port())
    try:
        pair.unavailable(reads=True)
        with pair.service.client() as client:
            client.get(pair.address).expect()
        pair.stateless()
        unready(pair.service)
    finally:
        pair.redis.redis.replicaof("no", "one")
