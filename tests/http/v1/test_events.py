"""Following a session: an event for each step, whoever takes it, in order, and none twice."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from tests.support.calls import fresh, put_state, state
from tests.support.client import Client, problem
from tests.support.connections import Wire, line_of, request_bytes
from tests.support.metrics import Scrape
from tests.support.service import Service
from tests.support.sockets import UPGRADE, Event, Events, speak, talking
from tests.support.waiting import eventually, together

ROW = [0.5, -1.0, 2.0]
PROMPT = 8.0
"""Seconds that are less than those between two comments (15), and enough for a busy machine."""


def first(events: Events, step: int, kind: str = "state") -> Event:
    """The next event, which says that the session is at this step."""
    event = events.next()
    assert event is not None
    assert (event.kind, event.data["step"]) == (kind, step), event
    assert event.id
    return event


def test_steps_are_told_whichever_worker_takes_them(service: Service, client: Client) -> None:
    address = client.create("sum")
    with Events(service.port, address) as events, service.one_client_a_worker() as clients:
        assert first(events, 0).data == {"session": address[-16:], "step": 0, "version": "1"}
        assert len(clients) == 2
        for round_ in range(5):
            for number, each in enumerate(clients):
                step = 2 * round_ + number + 1
                assert each.step(address, [1])["step"] == step
                assert events.steps(1) == [step]


def test_steps_of_many_sessions_are_told_as_steps(service: Service, client: Client) -> None:
    address, other = client.create("sum"), client.create("sum")
    names = [each.rpartition("/")[2] for each in (address, other)]
    with Events(service.port, address) as events:
        first(events, 0)
        for step in (1, 2, 3):
            client.post("/v1/models/sum/sessions:predict", {"sessions": {name: [1] for name in names}}).expect()
            assert events.steps(1) == [step]


def test_every_follower_is_told_every_step_of_a_burst(service: Service, client: Client) -> None:
    addresses = [client.create("sum") for _ in range(3)]
    opened = [Events(service.port, address) for address in addresses for _ in range(3)]
    for events in opened:
        first(events, 0)

    def burst(address: str) -> None:
        with service.stream(address) as stream:
            stream.send(line_of([1]) * 300)
            assert [stream.line()["step"] for _ in range(300)] == list(range(1, 301))

    together(burst, addresses)
    for events in opened:
        assert events.steps(300) == list(range(1, 301))
        events.close()


def test_a_follower_goes_on_after_the_last_event_that_it_has_read(service: Service, client: Client) -> None:
    address = client.create("sum")
    with Events(service.port, address) as events:
        last = first(events, 0).id
    for _ in range(5):
        client.step(address, [1])
    with Events(service.port, address, last=last) as events:
        assert events.steps(3) == [1, 2, 3]
        fourth = first(events, 4, "step").id
    for _ in range(2):
        with Events(service.port, address, last=fourth) as events:
            fifth = first(events, 5, "step").id
    with Events(service.port, address, last=fifth) as events:
        client.step(address, [1])
        assert events.steps(1) == [6]
    with Events(service.port, address) as events:
        first(events, 6)


def test_a_client_that_has_missed_many_steps_is_told_how_many(service: Service, client: Client) -> None:
    address = client.create("sum")
    with Events(service.port, address) as events:
        last = first(events, 0).id
    with service.stream(address) as stream:
        stream.send(line_of([1]) * 1001)
        assert [stream.line()["step"] for _ in range(1001)][-1] == 1001
    with Events(service.port, address, last=last) as events:
        assert first(events, 1001).data["skipped"] == 1000
        client.step(address, [1])
        assert events.steps(1) == [1002]
    made, edition, _ = str(last).split(".")
    with Events(service.port, address, last=f"{made}.{edition}.2") as events:
        assert events.steps(1000) == list(range(3, 1003))


def test_what_is_no_step_is_told_as_where_the_session_is(service: Service, client: Client) -> None:
    address = client.create("sum")
    for _ in range(3):
        client.step(address, [1])
    saved = state(client, address)
    ids = []
    with Events(service.port, address) as events:
        ids.append(first(events, 3).id)
        client.post(f"{address}:reset", {}).expect()
        ids.append(first(events, 0).id)
        client.step(address, [1])
        assert events.steps(1) == [1]
        put_state(client, address, saved).expect()
        ids.append(first(events, 3).id)
        put_state(client, address, saved).expect()
        ids.append(first(events, 3).id)
        client.step(address, [1])
        assert events.steps(1) == [4]
        fork = client.post(f"{address}:fork", {})
        fork.expect(201)
        with Events(service.port, fork.headers["Location"]) as others:
            first(others, 4)
            client.step(fork.headers["Location"], [1])
            assert others.steps(1) == [5]
    assert len(set(ids)) == 4
    for last in ids[:3]:  # those lead nowhere by steps
        with Events(service.port, address, last=last) as events:
            first(events, 4)
    with Events(service.port, address, last=ids[3]) as events:
        assert events.steps(1) == [4]


def test_a_sequence_that_starts_again_is_another_session(service: Service, client: Client) -> None:
    name = fresh()

    def infer(**parameters: bool) -> None:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1, 3], "data": ROW}
        body = {"inputs": [tensor], "parameters": {"sequence_id": name, **parameters}}
        client.post("/v2/models/rnn/infer", body).expect()

    infer(sequence_start=True)
    with Events(service.port, f"/v1/models/rnn/sessions/{name}") as events:
        first(events, 1)
        infer()
        assert events.steps(1) == [2]
        infer(sequence_start=True)
        first(events, 1)
        infer(sequence_end=True)
        ended = events.next()
        while ended is not None and ended.kind == "step":  # seen or not, before the end
            ended = events.next()
        assert ended == Event("deleted", {"session": name}, None)


def test_the_end_of_a_session_is_told_and_ends_the_events(service: Service, client: Client) -> None:
    address = client.create("sum")
    with Events(service.port, address) as events:
        last = first(events, 0).id
        client.delete(address)
        assert events.next() == Event("deleted", {"session": address[-16:]}, None)
        assert events.next() is None
    assert client.request("GET", f"{address}/events", headers={"Last-Event-ID": str(last)}).status == 410
    brief = client.create("sum", ttl=1)
    with Events(service.port, brief) as events:
        first(events, 0)
        assert events.next() == Event("expired", {"session": brief[-16:]}, None)
        assert events.next() is None
    name = address.rpartition("/")[2]
    assert client.create("sum", name) == address
    with Events(service.port, address, last=last) as events:
        first(events, 0)


def test_an_accumulator_is_followed_as_the_session_that_it_is(service: Service, client: Client) -> None:
    name = fresh("visits")
    client.post(f"/v1/accumulators/{name}", {"values": [1, 2]}).expect()
    with Events(service.port, f"/v1/models/accumulator/sessions/{name}", "?state=true") as events:
        assert first(events, 1).data["state"]["sum"] == 3.0
        client.post(f"/v1/accumulators/{name}", {"values": [4]}).expect()
        assert first(events, 2, "step").data["state"]["sum"] == 7.0


@pytest.mark.parametrize("model", ["rnn", "digits-rnn", "lstm", "gru", "decay"])
def test_the_newest_event_holds_the_state_where_that_is_asked_for(service: Service, client: Client, model: str) -> None:
    address = client.create(model)
    row = [0, 0, 7, 15, 13, 1, 0, 0] if model == "digits-rnn" else ROW
    with Events(service.port, address, "?state=true") as events, Events(service.port, address) as bare:
        assert_state(first(events, 0), client, address)
        assert "state" not in first(bare, 0).data
        for step in range(1, 4):
            client.step(address, [row])
            assert_state(first(events, step, "step"), client, address)
            assert "state" not in first(bare, step, "step").data


def assert_state(event: Event, client: Client, address: str) -> None:
    expected = load(state(client, address))
    found = {name: value for name, value in event.data["state"].items() if value is not None}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name], values.dtype), values)


def test_messages_are_steps_that_are_told(service: Service, client: Client) -> None:
    address = client.create("sum")
    with Events(service.port, address) as events, talking(service.port, address) as socket:
        first(events, 0)
        for step in range(1, 6):
            assert speak(socket, [1])["step"] == step
            assert events.steps(1) == [step]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/models/sum/sessions/never-there", {}, 404),
        ("/v1/models/nothing/sessions/a", {}, 404),
        ("/v1/models/digits-batchnorm/sessions/a", {}, 400),
        ("/v1/models/sum/sessions/not%20a%20name", {}, 400),
        ("", {"If-Match": '"7"'}, 412),
        ("", {"Last-Event-ID": "7"}, 400),
        ("", {"Last-Event-ID": "1.2.3.4"}, 400),
        ("", {"Last-Event-ID": f"{'f' * 17}.1.1"}, 400),
    ],
)
def test_what_cannot_be_followed_is_a_problem(client: Client, path: str, headers: dict[str, str], status: int) -> None:
    address = path or client.create("sum")
    problem(client.request("GET", f"{address}/events", headers=headers), status)
    if not path:
        problem(client.request("GET", f"{address}/events?state=maybe"), 400)
        head = client.request("HEAD", f"{address}/events")
        assert (head.status, head.body, head.headers["Content-Type"]) == (200, b"", "text/event-stream")
        client.get(address).expect()


def test_ids_from_nowhere_do_no_harm(service: Service, client: Client) -> None:
    address = client.create("sum")
    client.step(address, [1])
    with Events(service.port, address) as events:
        real = str(first(events, 1).id)
    made, edition, _ = real.split(".")
    for last in (f"{made}.{edition}.9", f"{made}.{edition}.{'9' * 19}", "0.0.0", f"{'f' * 16}.ffff.1"):
        with Events(service.port, address, last=last) as events:
            first(events, 1)
    saved = state(client, address)
    put_state(client, address, _at_step(saved, 10**17)).expect()
    with Events(service.port, address) as events:
        made, edition, _ = str(first(events, 10**17).id).split(".")
    with Events(service.port, address, last=f"{made}.{edition}.5") as events:
        first(events, 10**17)  # rather than as many events


def _at_step(file: bytes, step: int) -> bytes:
    """A state file that says another step."""
    length = int.from_bytes(file[:8], "little")
    header: dict[str, Any] = json.loads(file[8 : 8 + length])
    header["__metadata__"]["step"] = str(step)
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data + file[8 + length :]


def ends(wire: Wire) -> None:
    wire.shut()
    assert wire.rest().endswith(b"\r\n0\r\n\r\n")
    wire.close()


def sends_and_closes(wire: Wire) -> None:
    wire.send(b"no request\r\n" * 10_000)
    wire.close()


@pytest.mark.parametrize(
    ("query", "way"),
    [
        ("/events", Wire.close),
        ("/events", Wire.abort),
        ("/events", ends),
        ("/events", sends_and_closes),
        ("/events?state=true", Wire.close),
        (":stream", Wire.close),
        (":stream", Wire.abort),
    ],
    ids=["close", "abort", "end", "more", "state", "socket-close", "socket-abort"],
)
def test_a_client_that_goes_away_is_noticed_at_once(
    service: Service, client: Client, query: str, way: Callable[[Wire], None]
) -> None:
    address = client.create("sum")

    def held() -> tuple[float, int]:
        ends = [end for worker in service.workers() for end in worker.net_connections("tcp4")]
        here = [end for end in ends if end.raddr and end.laddr.port == service.port]
        return Scrape(client).value("carryover_streams"), len(here)

    eventually("no streams", lambda: held()[0] == 0)
    before = held()
    wires = [Wire(service.port) for _ in range(6)]
    for wire in wires:
        wire.send(request_bytes("GET", address + query, UPGRADE if query == ":stream" else {}))
        assert wire.head()[0] in (101, 200)
    assert held()[0] == 6
    for wire in wires:
        way(wire)
    eventually("the end of them", lambda: held() == before, PROMPT)


def test_what_a_follower_sends_is_its_next_request_and_costs_nothing(service: Service, client: Client) -> None:
    def spent() -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in service.workers())

    address = client.create("sum")
    with Events(service.port, address) as events:
        first(events, 0)
        events.wire.send(request_bytes("GET", "/v2/health/live", {}) * 100)
        before = spent()
        time.sleep(1)
        assert spent() - before < 0.5
        client.step(address, [1])
        assert events.steps(1) == [1]
        client.delete(address)
        assert getattr(events.next(), "kind", "") == "deleted"
        assert events.next() is None
        for _ in range(100):
            events.wire.response().expect()


def test_a_client_that_goes_away_leaves_nothing(service: Service, client: Client) -> None:
    address = client.create("sum")
    for _ in range(30):
        wire = Wire(service.port)
        wire.send(request_bytes("GET", f"{address}/events", {}))
        wire.abort()
    with Events(service.port, address) as events:
        first(events, 0)
        client.step(address, [1])
        assert events.steps(1) == [1]
