"""A request that carries an idempotency key is carried out once, and one that names a step on that step only."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from carryover.store import IdempotencyKey, Record, Store
from carryover.store.sweeper import sweep
from tests.support.calls import REPLAYED, call, fresh, head_of, held, post, put_state, state
from tests.support.client import NDJSON, Client, Response, problem, sentence
from tests.support.connections import Stream, Wire
from tests.support.redis_server import RedisServer
from tests.support.repository import rnn, spec, write_model, write_recurrent
from tests.support.service import Launch, Service
from tests.support.sources import plain
from tests.support.waiting import eventually, together
from tests.support.writes import Write

ROW = [0.5, -1.0, 2.0]
SESSIONS = "/v1/models/rnn/sessions"
Look = Callable[[Client], object]
Prepared = tuple[str, Any, Look]
"""Where a request goes, its body, and what can be seen of its effect."""


def _session(client: Client) -> str:
    address = client.create("rnn", fresh())
    client.step(address, [ROW])
    return address


def _create(_: Client) -> Prepared:
    # Without a name each new session gets one: a retry must get the same.
    return SESSIONS, {"ttl": 500}, lambda _: None


def _create_named(_: Client) -> Prepared:
    name = fresh()
    return SESSIONS, {"session": name}, lambda client: held(client, f"{SESSIONS}/{name}")


def _predict(client: Client) -> Prepared:
    address = _session(client)
    return f"{address}:predict", {"instances": [ROW]}, lambda client: held(client, address)


def _bulk(client: Client) -> Prepared:
    addresses = [_session(client) for _ in range(3)]
    body = {"sessions": {address.rsplit("/")[-1]: [ROW] * (i + 1) for i, address in enumerate(addresses)}}
    return f"{SESSIONS}:predict", body, lambda client: [held(client, address) for address in addresses]


def _fork(client: Client) -> Prepared:
    address, name = _session(client), fresh()
    return f"{address}:fork", {"session": name}, lambda client: held(client, f"{SESSIONS}/{name}")


def _fork_unnamed(client: Client) -> Prepared:
    address = _session(client)
    return f"{address}:fork", {"ttl": 400}, lambda client: held(client, address)


def _reset(client: Client) -> Prepared:
    address = _session(client)
    return f"{address}:reset", {}, lambda client: held(client, address)


def _accumulate(_: Client) -> Prepared:
    address = f"/v1/accumulators/{fresh()}"
    return address, {"values": [1.5, 2.0]}, lambda client: client.get(address).expect()


OPERATIONS = [_create, _create_named, _predict, _bulk, _fork, _fork_unnamed, _reset, _accumulate]
every_operation = pytest.mark.parametrize("prepare", OPERATIONS, ids=lambda prepare: prepare.__name__.strip("_"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that is loaded in a moment, with a model whose forward takes as long as it is asked to."""
    folder = write_recurrent(tmp_path_factory.mktemp("few") / "models")
    batched = [spec((-1, 1, 1), batch_dim=1)]
    write_model(folder, "slower", plain.SlowAsAsked(), batched, state={"total": 0})
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, few: Path) -> Iterator[tuple[Service, RedisServer]]:
    """A service that a test may restart, and the Redis that it keeps its sessions in."""
    server = RedisServer().start()
    running = Service(tmp_path_factory.mktemp("own"), MODEL_REPOSITORY=few, REDIS_URL=server.url)
    try:
        yield running.start(), server
    finally:
        running.end()
        server.end()


@pytest.fixture
def workers(service: Service) -> Iterator[list[Client]]:
    """A connection to each of the shared service's workers."""
    with service.one_client_a_worker() as clients:
        yield clients


def same(first: Response, again: Response) -> None:
    """Whether a response is the first one, replayed."""
    assert again.status == first.status
    assert again.body == first.body
    assert again.headers[REPLAYED] == "true"
    for name in ("ETag", "Location", "Content-Type"):
        assert again.headers[name] == first.headers[name]


def answered(client: Client, path: str, body: Any, key: str) -> Response | None:
    """The answer, unless the request still runs."""
    answer = post(client, path, body, key=key)
    return None if answer.status == 409 else answer


def is_at(client: Client, address: str, step: int) -> bool:
    return client.step_of(address) >= step


@every_operation
def test_a_retry_gets_the_same_bytes_from_any_worker_and_changes_nothing(
    prepare: Callable[[Client], Prepared], workers: list[Client]
) -> None:
    path, body, look = prepare(workers[0])
    first = post(workers[0], path, body, key="k")
    assert first.status in (200, 201), first.body
    assert REPLAYED not in first.headers
    seen = look(workers[0])
    for client in (*workers, *workers):
        same(first, post(client, path, body, key="k"))
        assert look(client) == seen


@every_operation
def test_a_key_stands_for_one_body(prepare: Callable[[Client], Prepared], workers: list[Client]) -> None:
    path, body, look = prepare(workers[0])
    first = post(workers[0], path, body, key="k")
    seen = look(workers[0])
    for data in (json.dumps(body).encode() + b" ", json.dumps({**body, "unknown": 1}).encode()):
        answer = post(workers[-1], path, data, key="k")
        if b"unknown" in data:
            problem(answer, 400)
        else:
            assert "another request" in problem(answer, 422)
    assert look(workers[0]) == seen
    same(first, post(workers[-1], path, body, key="k"))


def test_a_key_stands_for_one_route_of_a_session(client: Client) -> None:
    address = _session(client)
    post(client, f"{address}:predict", {"instances": [ROW]}, key="k").expect()
    problem(post(client, f"{address}:reset", {}, key="k"), 422)
    assert client.step_of(address) == 2


def test_a_key_belongs_to_a_session(client: Client) -> None:
    one, other = _session(client), _session(client)
    for address in (one, other):
        assert post(client, f"{address}:predict", {"instances": [ROW]}, key="k").expect()["step"] == 2


def test_responses_outlive_a_restart_and_a_sweep(own: tuple[Service, RedisServer]) -> None:
    service, server = own
    with service.client() as client:
        prepared = [prepare(client) for prepare in OPERATIONS]
        firsts = [post(client, path, body, key="k") for path, body, _ in prepared]
        seen = [look(client) for _, _, look in prepared]
    sweep(Store(server.url, 2.0, 3600))
    service.stop()
    service.start()
    with service.client() as client:
        for (path, body, _), first in zip(prepared, firsts, strict=True):
            same(first, post(client, path, body, key="k"))
        assert [look(client) for _, _, look in prepared] == seen


def test_a_request_that_still_runs_is_not_started_again(own: tuple[Service, RedisServer]) -> None:
    with own[0].one_client_a_worker() as clients:
        address = clients[0].create("slower")
        body = {"instances": [[600.0]]}

        def step(client: Client) -> Response:
            return post(client, f"{address}:predict", body, key="k")

        refused, done = sorted(together(step, clients), key=lambda answer: -answer.status)
        assert "is in flight" in problem(refused, 409)
        assert refused.headers["Retry-After"] == "1"
        assert done.expect()["step"] == 1
        for client in clients:
            same(done, step(client))
        assert clients[0].step_of(address) == 1


class TestFailedRequestsDoNotUseUpTheirKey:
    def test_400(self, client: Client) -> None:
        path = f"{_session(client)}:predict"
        problem(post(client, path, {"instances": [[1.0]]}, key="k"), 400)
        answer = post(client, path, {"instances": [ROW]}, key="k")
        assert answer.expect()["step"] == 2
        assert REPLAYED not in answer.headers

    def test_404(self, client: Client) -> None:
        name = fresh()
        path, body = f"{SESSIONS}/{name}:predict", {"instances": [ROW]}
        problem(post(client, path, body, key="k"), 404)
        client.create("rnn", name)
        assert post(client, path, body, key="k").expect()["step"] == 1

    def test_412(self, client: Client) -> None:
        path, body = f"{_session(client)}:predict", {"instances": [ROW]}
        problem(post(client, path, body, key="k", match='"7"'), 412)
        assert post(client, path, body, key="k", match='"1"').expect()["step"] == 2

    def test_422(self, client: Client) -> None:
        address = client.create("sum", fresh())
        client.step(address, [3e38])
        body = {"instances": [2e38]}
        assert "stays at step 1" in problem(post(client, f"{address}:predict", body, key="k"), 422)
        post(client, f"{address}:reset", {}).expect()
        assert post(client, f"{address}:predict", body, key="k").expect()["step"] == 1

    def test_where_forward_raises(self, client: Client) -> None:
        path = f"{client.create('fails', fresh())}:predict"
        for _ in range(2):
            problem(post(client, path, {"instances": [[-200.0]]}, key="k"), 422)
        assert post(client, path, {"instances": [[1.0]]}, key="k").expect()["step"] == 1

    def test_in_many_at_once(self, client: Client) -> None:
        there, missing = _session(client), fresh()
        name = there.rsplit("/")[-1]
        body = {"sessions": {name: [ROW], missing: [ROW]}}
        first = post(client, f"{SESSIONS}:predict", body, key="k").expect()["sessions"]
        sentence(first[missing], 404)
        client.create("rnn", missing)
        again = post(client, f"{SESSIONS}:predict", body, key="k").expect()["sessions"]
        assert again[name] == first[name]
        assert again[missing]["step"] == 1
        assert client.step_of(there) == 2


def test_a_response_is_kept_for_as_long_as_the_operator_says(launch: Launch, few: Path) -> None:
    service = launch(MODEL_REPOSITORY=few, IDEMPOTENCY_TTL=1)
    with service.client() as client:
        path, body = f"{client.create('rnn')}:predict", {"instances": [ROW]}
        first = post(client, path, body, key="k")
        same(first, post(client, path, body, key="k"))

        def carried_out_again() -> Response | None:
            answer = post(client, path, body, key="k")
            return answer if REPLAYED not in answer.headers else None

        assert eventually("the end of the stored response", carried_out_again).expect()["step"] == 2


def test_a_key_is_the_same_with_and_without_quotes(client: Client) -> None:
    path, body = f"{_session(client)}:predict", {"instances": [ROW]}
    first = post(client, path, body, key='"one key"')
    same(first, post(client, path, body, key="one key"))


@pytest.mark.parametrize("key", ["", '""', " ", "k" * 256, "k\u00e9", "a\tb"])
@pytest.mark.parametrize("prepare", [_create, _predict, _accumulate, _reset], ids=["create", "step", "add", "reset"])
def test_a_key_that_is_none_is_rejected(key: str, prepare: Callable[[Client], Prepared], client: Client) -> None:
    path, body, _ = prepare(client)
    assert "255 printable" in problem(post(client, path, body, key=key), 400)


def test_the_longest_key_is_taken(client: Client) -> None:
    path, body = f"{_session(client)}:predict", {"instances": [ROW]}
    same(post(client, path, body, key="k" * 255), post(client, path, body, key="k" * 255))


def test_one_request_from_many_clients_at_once_is_carried_out_once(service: Service, client: Client) -> None:
    address, total = client.create("rnn", fresh()), f"/v1/accumulators/{fresh()}"
    steps, adds = f"{address}:predict", {"values": [1.0]}
    rounds = 6
    with service.clients(8) as clients:
        for number in range(rounds):

            def until_done(client: Client, key: str = str(number)) -> tuple[Response, Response]:
                return (
                    eventually("a step", partial(answered, client, steps, {"instances": [ROW]}, key)),
                    eventually("a sum", partial(answered, client, total, adds, key)),
                )

            for answers in zip(*together(until_done, clients), strict=True):
                assert {answer.status for answer in answers} == {200}
                assert len({answer.body for answer in answers}) == 1
                assert sum(REPLAYED not in answer.headers for answer in answers) == 1
    assert client.step_of(address) == rounds
    assert client.get(total).expect()["sum"] == rounds


def test_a_request_sent_twice_at_once_is_carried_out_once_where_the_race_for_the_session_is_lost(
    service: Service, client: Client, workers: list[Client]
) -> None:
    address, rounds = client.create("sum", fresh()), 100
    path = f"{address}:predict"
    over = threading.Event()

    def race(other: Client) -> int:
        """Step the same session from another worker, so that commits are lost and steps run again."""
        taken = 0
        while not over.is_set():
            other.step(address, [0.0])
            taken += 1
        return taken

    def once(key: str) -> None:
        # Both on one connection's worker, and in one batch: their requests lie there when it looks.
        wires = [Wire(service.port) for _ in range(6)]
        data = head_of("POST", path, json.dumps({"instances": [1.0]}).encode(), key=key)
        for wire in wires:
            wire.send(data)
        for wire in wires:
            assert wire.response().status in (200, 409)
            wire.close()

    with ThreadPoolExecutor() as pool:
        racers = [pool.submit(race, worker) for worker in workers]
        for number in range(rounds):
            once(str(number))
        over.set()
        taken = sum(racer.result() for racer in racers)
    assert held(client, address)["sum"] == rounds
    assert client.step_of(address) == taken + rounds


def test_a_response_that_was_never_read_is_replayed(service: Service, client: Client) -> None:
    address = client.create("rnn", fresh())
    path, body = f"{address}:predict", json.dumps({"instances": [ROW]}).encode()
    rounds = 25
    for number in range(rounds):
        wire = Wire(service.port)
        wire.send(head_of("POST", path, body, key=str(number)))
        if number % 2:
            # The answer is on its way, or there: the connection is cut before a byte of it is read.
            eventually("the step", partial(is_at, client, address, number + 1))
        wire.abort()
        answer = eventually("a response", partial(answered, client, path, body, str(number)))
        assert answer.expect()["step"] == number + 1
        if number % 2:
            assert answer.headers[REPLAYED] == "true"
    assert client.step_of(address) == rounds
    expected = plain.PlainRNN.forward(module := rnn(), torch.tensor([[ROW]] * rounds))
    assert answer.json["predictions"][0] == pytest.approx(expected[-1, 0].tolist(), abs=1e-6)
    assert np.allclose(load(state(client, address))["hidden"], module.hidden.detach(), atol=1e-6)


class TestStreamedLines:
    @staticmethod
    def ask(stream: Stream, value: float, key: str) -> Any:
        stream.send(json.dumps({"instances": [value], "idempotency_key": key}).encode() + b"\n")
        return stream.line()

    def test_a_line_is_stepped_once(self, service: Service, client: Client) -> None:
        address = client.create("sum", fresh())
        one, other = service.stream(address), service.stream(address)
        first = self.ask(one, 2.0, "a")
        assert first["step"] == 1
        assert [self.ask(stream, 2.0, "a") for stream in (one, other, one)] == [first] * 3
        sentence(self.ask(other, 3.0, "a"), 422)
        assert self.ask(other, 3.0, "b")["step"] == 2
        assert client.step_of(address) == 2
        one.close()
        other.close()

    def test_a_line_that_fails_leaves_its_key(self, service: Service, client: Client) -> None:
        address = client.create("fails", fresh())
        stream = service.stream(address)
        sentence(self.ask(stream, -200.0, "a"), 422)
        assert self.ask(stream, 1.0, "a")["step"] == 1
        sentence(self.ask(stream, 1.0, ""), 400)
        stream.close()

    def test_a_key_for_the_whole_stream_is_rejected_and_not_ignored(self, client: Client) -> None:
        address = client.create("sum", fresh())
        headers = {"Content-Type": NDJSON, "Idempotency-Key": "a"}
        answer = client.request("POST", f"{address}:stream", b'{"instances":[1]}\n', headers)
        assert "idempotency_key" in problem(answer, 400)
        assert client.step_of(address) == 0

    def test_lines_sent_again_after_a_cut_are_stepped_once(self, service: Service, client: Client) -> None:
        address = client.create("sum", fresh())
        lines = [json.dumps({"instances": [float(i)], "idempotency_key": str(i)}).encode() + b"\n" for i in range(50)]
        stream = service.stream(address)
        stream.send(b"".join(lines[:30]))
        assert stream.line()["step"] == 1
        stream.wire.abort()
        again = service.stream(address)

        def done(line: bytes) -> Any:
            def ask() -> Any:
                again.send(line)
                answer = again.line()
                return None if answer.get("status") == 409 else answer

            return eventually("a response", ask)

        answers = [done(line) for line in lines]
        again.close()
        assert [answer["step"] for answer in answers] == list(range(1, 51))
        assert answers[-1]["predictions"] == [sum(range(50))]


class TestSteps:
    """`ETag`, `If-Match` and `If-None-Match`."""

    def test_every_response_has_the_step(self, client: Client) -> None:
        created = post(client, SESSIONS, {"session": fresh()})
        address = created.headers["Location"]
        assert created.headers["ETag"] == '"0"'
        assert post(client, f"{address}:predict", {"instances": [ROW]}).headers["ETag"] == '"1"'
        assert client.get(address).headers["ETag"] == '"1"'
        file = client.get(f"{address}/state")
        assert file.headers["ETag"] == '"1"'
        assert post(client, f"{address}:fork", {}).headers["ETag"] == '"1"'
        assert post(client, f"{address}:reset", {}).headers["ETag"] == '"0"'
        assert put_state(client, address, file.body).headers["ETag"] == '"1"'
        total = post(client, f"/v1/accumulators/{fresh()}", {"values": [1]})
        assert total.headers["ETag"] == '"1"'

    @pytest.mark.parametrize(
        ("method", "rest", "body", "done"),
        [
            ("POST", ":predict", {"instances": [ROW]}, 200),
            ("POST", ":reset", {}, 200),
            ("POST", ":fork", {}, 201),
            ("GET", "", None, 200),
            ("GET", "/state", None, 200),
            ("DELETE", "", None, 204),
        ],
        ids=["predict", "reset", "fork", "show", "state", "delete"],
    )
    def test_a_request_runs_on_the_step_that_it_names(
        self, method: str, rest: str, body: Any, done: int, client: Client
    ) -> None:
        address = _session(client)
        before = held(client, address)
        for wrong in ('"0"', "2", f'"{2**70}"'):
            answer = call(client, method, address + rest, body, match=wrong)
            assert "is at step 1" in problem(answer, 412)
            assert answer.json["step"] == 1
            assert answer.headers["ETag"] == '"1"'
        problem(call(client, method, address + rest, body, match='W/"1"'), 400)
        problem(call(client, method, address + rest, body, match="one"), 400)
        assert held(client, address) == before
        assert call(client, method, address + rest, body, match='"1"').status == done

    def test_a_state_is_put_on_the_step_that_is_named(self, client: Client) -> None:
        address = _session(client)
        file, before = state(client, address), held(client, address)
        client.step(address, [ROW])
        answer = put_state(client, address, file, match='"1"')
        assert answer.json["step"] == 2
        problem(answer, 412)
        assert client.step_of(address) == 2
        put_state(client, address, file, match='"2"').expect()
        assert held(client, address) == before

    def test_an_accumulator_adds_on_the_step_that_is_named(self, client: Client) -> None:
        address = f"/v1/accumulators/{fresh()}"
        client.post(address, {"values": [1]}).expect()
        problem(post(client, address, {"values": [1]}, match='"0"'), 412)
        assert post(client, address, {"values": [1]}, match='"1"').expect()["sum"] == 2
        problem(call(client, "DELETE", address, match='"1"'), 412)
        assert call(client, "DELETE", address, match='"2"').status == 204

    def test_an_accumulator_is_shown_at_the_step_that_is_named(self, client: Client) -> None:
        address = f"/v1/accumulators/{fresh()}"
        client.post(address, {"values": [1]}).expect()
        answer = call(client, "GET", address, match='"0"')
        assert "is at step 1" in problem(answer, 412)
        assert answer.headers["ETag"] == '"1"'
        assert call(client, "GET", address, match='"1"').expect()["sum"] == 1

    def test_many_sessions_step_where_they_stand_at_the_step_that_is_named(self, client: Client) -> None:
        there, further = _session(client), _session(client)
        client.step(further, [ROW])
        names = [address.rpartition("/")[2] for address in (there, further)]
        body = {"sessions": {name: [ROW] for name in names}}
        entries = post(client, f"{SESSIONS}:predict", body, match='"1"').expect()["sessions"]
        first, second = (entries[name] for name in names)
        assert first["step"] == 2
        assert "is at step 2" in sentence(second, 412)
        assert second["step"] == 2
        problem(post(client, f"{SESSIONS}:predict", body, match="one"), 400)
        assert [client.step_of(address) for address in (there, further)] == [2, 2]

    def test_a_stream_starts_at_the_step_that_is_named(self, client: Client) -> None:
        path = f"{_session(client)}:stream"
        lines = json.dumps({"instances": [ROW]}).encode() + b"\n"

        def stream(match: str) -> Response:
            return client.request("POST", path, lines * 2, {"Content-Type": NDJSON, "If-Match": match})

        assert "is at step 1" in problem(stream('"0"'), 412)
        problem(stream("one"), 400)
        assert [json.loads(line)["step"] for line in stream('"1"').body.splitlines()] == [2, 3]

    def test_a_stream_whose_session_is_at_another_step_does_not_start(self, service: Service, client: Client) -> None:
        address = _session(client)
        wire = Wire(service.port)
        head = f"POST {address}:stream HTTP/1.1\r\nHost: a\r\nContent-Type: {NDJSON}\r\n"
        wire.send(f'{head}If-Match: "1"\r\nTransfer-Encoding: chunked\r\n\r\n'.encode())
        assert wire.head()[0] == 200
        client.step(address, [ROW])
        line = json.dumps({"instances": [ROW]}).encode() + b"\n"
        wire.send(b"%x\r\n%s\r\n" % (len(line) * 2, line * 2))
        refused = [json.loads(each) for each in wire.chunk().splitlines()]
        assert ["is at step 2" in sentence(each, 412) for each in refused] == [True, True]
        wire.close()
        assert client.step_of(address) == 2

    def test_of_many_that_name_one_step_one_runs(self, service: Service, client: Client) -> None:
        address = _session(client)
        with service.clients(8) as clients:
            for number in range(1, 6):

                def step(client: Client, number: int = number) -> int:
                    return post(client, f"{address}:predict", {"instances": [ROW]}, match=f'"{number}"').status

                assert sorted(together(step, clients)) == [200] + [412] * 7
        assert client.step_of(address) == 6

    @pytest.mark.parametrize("made", ["", ":fork"], ids=["create", "fork"])
    def test_if_none_match_makes_only_what_is_not_there(self, made: str, client: Client) -> None:
        origin, name = _session(client), fresh()
        path = SESSIONS if made == "" else origin + made
        assert post(client, path, {"session": name}, none_match="*").status == 201
        before = held(client, f"{SESSIONS}/{name}")
        problem(post(client, path, {"session": name}), 409)
        problem(post(client, path, {"session": name}, none_match="*"), 412)
        problem(post(client, path, {"session": name}, none_match='"1"'), 400)
        assert held(client, f"{SESSIONS}/{name}") == before

    def test_if_none_match_creates_an_accumulator_and_adds_to_none(self, client: Client) -> None:
        address = f"/v1/accumulators/{fresh()}"
        created = post(client, address, {"values": [1]}, key="a", none_match="*")
        assert created.expect()["sum"] == 1
        problem(post(client, address, {"values": [1]}, none_match="*"), 412)
        problem(post(client, address, {"values": [1]}, none_match='"1"'), 400)
        same(created, post(client, address, {"values": [1]}, key="a", none_match="*"))
        assert client.get(address).expect()["sum"] == 1
        client.delete(address)
        assert post(client, address, {"values": [5]}, none_match="*").expect()["sum"] == 5

    def test_if_none_match_puts_no_state_over_another(self, client: Client) -> None:
        origin, name = _session(client), fresh()
        file = state(client, origin)
        put_state(client, f"{SESSIONS}/{name}", file, none_match="*").expect()
        client.step(f"{SESSIONS}/{name}", [ROW])
        problem(put_state(client, f"{SESSIONS}/{name}", file, none_match="*"), 412)
        assert client.step_of(f"{SESSIONS}/{name}") == 2

    def test_a_keyed_request_that_names_its_step_can_be_retried(self, client: Client) -> None:
        path = f"{_session(client)}:predict"
        first = post(client, path, {"instances": [ROW]}, key="k", match='"1"')
        same(first, post(client, path, {"instances": [ROW]}, key="k", match='"1"'))

    def test_a_number_of_any_length_is_a_step(self, client: Client) -> None:
        assert "is at step 1" in problem(
            post(client, f"{_session(client)}:predict", {"instances": [ROW]}, match="9" * 5000), 412
        )

    def test_what_does_not_exist_is_at_no_step(self, client: Client) -> None:
        file = state(client, _session(client))
        for match in ('"1"', '"0"', "*"):
            address = f"{SESSIONS}/{fresh()}"
            problem(put_state(client, address, file, match=match), 412)
            problem(client.get(address), 404)
            total = f"/v1/accumulators/{fresh()}"
            problem(post(client, total, {"values": [1]}, match=match), 412)
            problem(client.get(total), 404)


class TestTheStore:
    """What the promise rests on, below HTTP."""

    def test_giving_up_a_lock_never_removes_a_response(self, redis_server: RedisServer) -> None:
        store = Store(redis_server.url, 2.0, 3600)
        key = IdempotencyKey.of("k", "/path", b"body")
        store.load(["rnn/s"], [("rnn/s", key)])
        redis_server.redis.delete(*redis_server.redis.keys("*"))  # the lock expires: its worker was too slow
        assert store.load(["rnn/s"], [("rnn/s", key)]) == ([None], [None])
        record = Record.new(b"f" * 8, b"l" * 8, 1, b"state", 60)
        store.commit([Write("rnn/s", None, record, live=False, responses=((key, b"response"),))])
        store.commit([], [("rnn/s", key)])  # the slow one has failed
        assert store.load(["rnn/s"], [("rnn/s", key)])[1] == [key.stored(b"response")]

    def test_a_commit_sent_again_is_the_same_commit(self, redis_server: RedisServer) -> None:
        store = Store(redis_server.url, 2.0, 3600)
        record = Record.new(b"f" * 8, b"l" * 8, 1, b"state", 60)
        key = IdempotencyKey.of("k", "/path", b"body")
        write = Write("rnn/s", None, record, live=False, responses=((key, b"response"),))
        assert store.commit([write]) == [1]
        assert store.commit([write]) == [0]  # another nonce: another commit
        assert store.load(["rnn/s"], [("rnn/s", key)])[1] == [key.stored(b"response")]
