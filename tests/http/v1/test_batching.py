"""Requests that arrive during a forward share the next one; more than may wait are rejected."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.calls import head_of
from tests.support.client import Client, problem
from tests.support.connections import Wire, line_of
from tests.support.service import Launch, Service


def forwards(service: Service) -> list[int]:
    """How many sessions each forward of the model `talks` had, so far."""
    return [int(line.split()[3]) for line in service.err().splitlines() if line.startswith("a forward of ")]


def test_many_sessions_share_one_forward(single: Service) -> None:
    with single.client() as client:
        sessions = [client.create("talks").rpartition("/")[2] for _ in range(100)]
        before = len(forwards(single))
        body = {"sessions": {name: [number] for number, name in enumerate(sessions)}}
        entries = client.post("/v1/models/talks/sessions:predict", body).expect()["sessions"]
        assert [entries[name]["predictions"] for name in sessions] == [[[float(n)]] for n in range(100)]
        assert forwards(single)[before:] == [100]

        # As many requests, over as many connections, that are all there when the worker looks.
        before = len(forwards(single))
        wires = [Wire(single.port) for _ in range(32)]
        for wire in wires:
            wire.send(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            wire.response().expect()
        with held_up(single):
            for number, (wire, name) in enumerate(zip(wires, sessions, strict=False)):
                wire.send(head_of("POST", f"/v1/models/talks/sessions/{name}:predict", line_of([number])))
        answers = [wire.response().expect() for wire in wires]
        for wire in wires:
            wire.close()
        assert [answer["predictions"] for answer in answers] == [[[2.0 * n]] for n in range(32)]
        shared = forwards(single)[before:]
        assert sum(shared) == 32
        assert len(shared) < 8


def test_steps_of_one_session_run_one_after_another_in_one_batch(single: Service) -> None:
    with single.client() as client:
        address = client.create("talks")
        stream = single.stream(address)
        stream.send(b"".join(line_of([1]) for _ in range(10)))
        assert [stream.line()["predictions"] for _ in range(10)] == [[[float(n)]] for n in range(1, 11)]
        stream.close()
        assert client.step_of(address) == 10


@contextmanager
def held_up(service: Service) -> Iterator[None]:
    """Stop the only worker for a while: what is sent meanwhile is all there when it goes on."""
    (worker,) = service.workers()
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


def test_more_than_may_wait_is_429_and_what_was_taken_is_answered(launch: Launch, few: Path) -> None:
    service = launch(MODEL_REPOSITORY=few, WORKERS=1, MAX_QUEUE=3, MAX_BATCH=1)
    with service.client() as client:
        addresses = [client.create("slow") for _ in range(16)]
        client.step(addresses[0], [0])
        wires = [Wire(service.port) for _ in addresses]
        for wire in wires:
            wire.send(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            wire.response().expect()
        with held_up(service):
            for wire, address in zip(wires, addresses, strict=True):
                wire.send(head_of("POST", f"{address}:predict", line_of([1])))
        refused = 0
        for number, (wire, address) in enumerate(zip(wires, addresses, strict=True)):
            answer = wire.response()
            before = 1 if number == 0 else 0
            if answer.status == 429:
                refused += 1
                assert int(answer.headers["Retry-After"]) >= 1
                assert "3" in problem(answer, 429)
                assert client.step_of(address) == before
            else:
                assert answer.expect()["step"] == before + 1
            wire.close()
        assert 0 < refused < 16
        stepped(client, addresses)


def stepped(client: Client, addresses: list[str]) -> None:
    """After the rush, every session goes on."""
    for address in addresses:
        before = client.step_of(address)
        assert client.step(address, [1])["step"] == before + 1
