"""Streams: one request, one line a step, each answered before the next need be sent."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from websockets.frames import TEXT, Frame

from tests.support.client import NDJSON, Client, problem, sentence, strict_json
from tests.support.connections import Stream, Wire, line_of, request_bytes
from tests.support.repository import lstm
from tests.support.service import Launch, Service
from tests.support.sockets import UPGRADE
from tests.support.waiting import at_once, eventually, together


@contextmanager
def opened(service: Service, address: str, length: int | None = None) -> Iterator[Stream]:
    stream = service.stream(address, length)
    try:
        yield stream
    finally:
        stream.close()


@pytest.mark.parametrize("framing", ["chunked", "content-length"])
def test_each_line_is_answered_before_the_next_is_sent(service: Service, client: Client, framing: str) -> None:
    address = client.create("lstm")
    rows = torch.randn(20, 3)
    with torch.inference_mode():
        expected = lstm()(rows[:, None])[:, 0]
    lines = [line_of([row]) for row in rows.tolist()]
    with opened(service, address, None if framing == "chunked" else sum(map(len, lines))) as stream:
        for number, line in enumerate(lines):
            stream.send(line)
            answer = stream.line()
            assert set(answer) == {"predictions", "session", "step", "version"}
            assert answer["step"] == number + 1
            assert_close(torch.tensor(answer["predictions"][0]), expected[number], rtol=0, atol=1e-5)
            assert client.step_of(address) == number + 1
        if framing == "chunked":
            stream.finish()
        assert stream.line() is None


@pytest.mark.parametrize("framing", ["chunked", "content-length"])
def test_the_connection_is_good_for_another_request_afterwards(service: Service, client: Client, framing: str) -> None:
    address = client.create("sum")
    with opened(service, address, None if framing == "chunked" else len(line_of([1]))) as stream:
        assert stream.step([1])["step"] == 1
        if framing == "chunked":
            stream.finish()
        assert stream.line() is None
        stream.wire.send(f"GET {address} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert stream.wire.response().expect()["step"] == 1


@pytest.mark.parametrize("framing", ["chunked", "content-length"])
def test_what_follows_a_stream_at_once_is_the_next_request(service: Service, client: Client, framing: str) -> None:
    address = client.create("sum")
    body = line_of([1]) + line_of([2])
    header = f"Content-Length: {len(body)}"
    if framing == "chunked":
        header, body = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = f"POST {address}:stream HTTP/1.1\r\nHost: a\r\nContent-Type: {NDJSON}\r\n{header}\r\n\r\n"
    look = f"GET {address} HTTP/1.1\r\nHost: a\r\n\r\n"
    wire = Wire(service.port)
    wire.send(head.encode() + body + look.encode() * 2)
    assert [strict_json(line)["step"] for line in wire.response().body.splitlines()] == [1, 2]
    assert [wire.response().expect()["step"] for _ in range(2)] == [2, 2]
    wire.close()


def test_a_line_may_come_in_any_pieces(service: Service, client: Client) -> None:
    address = client.create("sum")
    with opened(service, address) as stream:
        for byte in line_of([2]):
            assert stream.wire.silent(0)
            stream.send(bytes([byte]))
        assert stream.line()["predictions"] == [2.0]
        two_and_a_half = line_of([3]) + line_of([4]) + line_of([5])[:7]
        stream.send(two_and_a_half)
        assert [stream.line()["predictions"] for _ in range(2)] == [[5.0], [9.0]]
        assert stream.wire.silent()
        stream.send(line_of([5])[7:])
        assert stream.line()["predictions"] == [14.0]


def test_lines_that_come_together_are_answered_in_order(service: Service, client: Client) -> None:
    address = client.create("sum")
    with opened(service, address) as stream:
        stream.send(b"".join(line_of([1]) for _ in range(500)))
        answers = [stream.line() for _ in range(500)]
    assert [answer["step"] for answer in answers] == list(range(1, 501))
    assert [answer["predictions"] for answer in answers] == [[float(n)] for n in range(1, 501)]


@pytest.mark.parametrize("model", ["lstm", "rnn", "rnn-alone", "gru", "decay", "digits-rnn"])
def test_lines_that_come_together_give_what_each_gives_in_turn(service: Service, client: Client, model: str) -> None:
    width = 8 if model == "digits-rnn" else 3
    lines = [line_of(torch.randn(1 + number % 3, width).tolist()) for number in range(100)]
    before = forwards_of(client, model)
    with opened(service, client.create(model)) as stream:
        stream.send(b"".join(lines))
        together = [stream.line() for _ in lines]
    shared = forwards_of(client, model) - before
    with opened(service, client.create(model)) as stream:
        for number, (line, found) in enumerate(zip(lines, together, strict=True), 1):
            stream.send(line)
            alone = stream.line()
            assert found["step"] == alone["step"] == number
            for one, other in zip(numbers_of(found), numbers_of(alone), strict=True):
                assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert shared < len(lines) / 4
    assert forwards_of(client, model) - before - shared == len(lines)


def test_of_lines_that_come_together_only_the_bad_ones_fail(service: Service, client: Client) -> None:
    row, huge = [[0.5, -1.0, 2.0]], [[3e38, 0.0, 0.0]]
    bad = [line_of(huge), line_of(huge), b"not json\n", line_of([[1.0]]), line_of(row)]
    lines = [line_of(row)] * 20 + bad + [line_of(row)] * 20
    found: list[list[tuple[int | None, int | None]]] = []
    addresses = [client.create("decay") for _ in range(2)]
    for address, ahead in zip(addresses, (1, len(lines)), strict=True):
        with opened(service, address) as stream:
            outcomes = []
            for start in range(0, len(lines), ahead):
                part = lines[start : start + ahead]
                stream.send(b"".join(part))
                outcomes += [stream.line() for _ in part]
        found.append([(outcome.get("status"), outcome.get("step")) for outcome in outcomes])
    assert found[0] == found[1]
    assert [status for status, _ in found[0][20:25]] == [None, 422, 400, 400, None]
    assert [client.step_of(address) for address in addresses] == [42, 42]
    assert_close(*(torch.tensor(client.step(address, row)["predictions"]) for address in addresses))


def test_lines_that_fail_only_together_with_others_are_found_and_run_apart(service: Service, client: Client) -> None:
    row, huge = [[0.5, -1.0, 2.0]], [[3e38, 0.0, 0.0]]
    address = client.create("decay")
    before = successes_of(client, "decay")
    with opened(service, address) as stream:
        assert stream.step(row)["step"] == 1
        stream.send(line_of(row) * 10 + line_of(huge) * 3 + line_of(row) * 10)
        found = [stream.line() for _ in range(23)]
    assert [outcome.get("status") for outcome in found] == [None] * 11 + [422] * 2 + [None] * 10
    assert [outcome["step"] for outcome in found if "step" in outcome] == list(range(2, 23))
    assert client.step_of(address) == 22
    after = successes_of(client, "decay")
    assert [now - then for now, then in zip(after, before, strict=True)] == [22, 2]


def test_no_line_completes_another(service: Service, client: Client) -> None:
    address = client.create("lstm")
    row = line_of([[0.5, -1.0, 2.0]])
    two = row.strip() + b", " + row
    with opened(service, address) as stream:
        assert stream.step([[0.5, -1.0, 2.0]])["step"] == 1
        stream.send(row + b'{"instances": [[0.5, -1.0\n2.0]]}\n' + two + row)
        found = [stream.line() for _ in range(5)]
    assert [outcome.get("status") for outcome in found] == [None, 400, 400, 400, None]
    assert client.step_of(address) == 3


def test_lines_ahead_of_a_session_that_is_deleted_are_410(service: Service, client: Client) -> None:
    address = client.create("lstm")
    row = line_of([[0.5, -1.0, 2.0]])
    with opened(service, address) as stream:
        stream.send(row * 5)
        assert [stream.line()["step"] for _ in range(5)] == [1, 2, 3, 4, 5]
        client.delete(address)
        stream.send(row * 5)
        for _ in range(5):
            sentence(stream.line(), 410)


def test_a_line_with_a_key_among_others_is_run_once(service: Service, client: Client) -> None:
    address = client.create("lstm")
    row = [[0.5, -1.0, 2.0]]
    keyed = json.dumps({"instances": row, "idempotency_key": "only-once"}).encode() + b"\n"
    with opened(service, address) as stream:
        stream.send((line_of(row) * 5 + keyed) * 3 + line_of(row))
        found = [stream.line() for _ in range(19)]
    assert [each["step"] for each in found] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 6, 12, 13, 14, 15, 16, 6, 17]
    assert found[5] == found[11] == found[17]
    assert client.step_of(address) == 17


def test_a_bad_line_gets_its_problem_and_the_stream_goes_on(service: Service, client: Client) -> None:
    address = client.create("sum")
    lines: list[tuple[bytes, int | None]] = [
        (b'{"instances":[1]}\n', None),
        (b"not json\n", 400),
        (b'{"instances":["1"]}\n', 400),
        (b'{"instances":[]}\n', 400),
        (b'{"instances":[NaN]}\n', 400),
        (b'{"instances":[1],"extra":1}\n', 400),
        (b"[1]\n", 400),
        (b"\xff\xfe\n", 400),
        (b'{"instances":[3e38,3e38]}\n', 422),
        (b'{"instances":[1]}\r\n', None),
        (b"[" * 100_000 + b"\n", 400),
        (b'{"instances":[1]}\n', None),
    ]
    with opened(service, address) as one, opened(service, client.create("sum")) as other:
        other.send(b"".join(line for line, _ in lines))
        step = 0
        for line, status in lines:
            one.send(line)
            for answer in (one.line(), other.line()):
                if status is None:
                    assert answer["predictions"] == [step + 1.0]
                    assert answer["step"] == step + 1
                else:
                    sentence(answer, status)
            step += status is None
    assert client.step_of(address) == 3


def test_a_step_that_fails_in_the_model_gets_its_problem_and_the_stream_goes_on(
    service: Service, client: Client
) -> None:
    with opened(service, client.create("fails")) as stream:
        assert stream.step([1])["predictions"] == [[2.0]]
        assert "secret" not in sentence(stream.step([-1000]), 422)
        stream.send(line_of([1]) + line_of([-1000]) + line_of([1]))
        assert stream.line()["step"] == 2
        sentence(stream.line(), 422)
        assert stream.line() == {
            "predictions": [[4.0]],
            "session": stream.step([1])["session"],
            "step": 3,
            "version": "1",
        }


def test_blank_lines_are_nothing(service: Service, client: Client) -> None:
    with opened(service, client.create("sum")) as stream:
        stream.send(b"\n\r\n  \n" + line_of([1]) + b"\n\n")
        assert stream.line()["step"] == 1
        assert stream.wire.silent()
        stream.finish()
        assert stream.line() is None


def test_the_last_line_needs_no_end(service: Service, client: Client) -> None:
    with opened(service, client.create("sum")) as stream:
        stream.send(line_of([1]) + line_of([2]).rstrip())
        assert stream.line()["predictions"] == [1.0]
        assert stream.wire.silent()
        stream.finish()
        assert stream.line()["predictions"] == [3.0]
        assert stream.line() is None


def test_a_stream_may_be_empty(service: Service, client: Client) -> None:
    address = client.create("sum")
    with opened(service, address, 0) as stream:
        assert stream.line() is None
    with opened(service, address) as stream:
        stream.finish()
        assert stream.line() is None
    assert client.step_of(address) == 0


def test_a_line_that_is_too_long_gets_413_and_the_stream_goes_on(single: Service) -> None:
    with single.client() as client:
        address = client.create("total")
    with opened(single, address) as stream:
        assert stream.step([1])["step"] == 1
        for size in (20_001, 30_000, 200_000, 3_000_000):
            stream.send(b" " * size + line_of([1]))
            assert "20000" in sentence(stream.line(), 413)
        for size in (10_000, 15_000, 10_000):
            stream.send(b"x" * size)
        stream.send(b"\n" + line_of([1]))
        sentence(stream.line(), 413)
        assert stream.line()["step"] == 2
        stream.send(b"x" * 25_000)
        stream.finish()
        sentence(stream.line(), 413)
        assert stream.line() is None


def test_a_stream_as_a_whole_may_be_of_any_length(single: Service) -> None:
    with single.client() as client:
        address = client.create("total")
    line = line_of([1] * 1000)
    for length in (None, 50 * len(line)):
        with opened(single, address, length) as stream:
            answers = []
            for _ in range(50):
                stream.send(line)
                answers.append(stream.line())
        assert [answer["step"] % 50 for answer in answers] == [*range(1, 50), 0]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/v1/models/sum/sessions/never-there", 404),
        ("/v1/models/nothing/sessions/a", 404),
        ("/v1/models/digits-batchnorm/sessions/a", 400),
        ("/v1/models/sum/sessions/not%20a%20name", 400),
    ],
)
def test_what_is_not_there_is_rejected_before_any_line(service: Service, address: str, status: int) -> None:
    stream = Stream(service.port, address)
    problem(stream.wire.response(), status)
    stream.close()


def test_a_deleted_session_is_410_before_any_line_and_in_the_middle(service: Service, client: Client) -> None:
    address = client.create("sum")
    with opened(service, address) as stream:
        assert stream.step([1])["step"] == 1
        client.delete(address)
        sentence(stream.step([1]), 410)
        sentence(stream.step([1]), 410)
        late = Stream(service.port, address)
        problem(late.wire.response(), 410)
        late.close()


def test_a_stream_must_say_that_it_is_one(client: Client) -> None:
    address = client.create("sum")
    answer = client.request("POST", f"{address}:stream", line_of([1]), {"Content-Type": "application/json"})
    assert NDJSON in problem(answer, 415)
    assert client.step_of(address) == 0


def test_other_requests_see_a_streams_steps_and_the_other_way_round(service: Service, client: Client) -> None:
    address = client.create("sum")
    with opened(service, address) as one, opened(service, address) as other:
        for round_ in range(10):
            assert one.step([1])["step"] == 3 * round_ + 1
            assert client.step(address, [1])["step"] == 3 * round_ + 2
            assert other.step([1])["predictions"] == [3.0 * round_ + 3]


@pytest.mark.parametrize("way", ["closed", "reset"])
@pytest.mark.parametrize("rest", [b'{"instances":[1', b'{"instances":[1]}'], ids=["cut", "whole"])
def test_a_client_that_goes_before_the_end_of_a_line_leaves_no_trace(
    service: Service, client: Client, way: str, rest: bytes
) -> None:
    address = client.create("sum")
    stream = service.stream(address)
    assert stream.step([5])["step"] == 1
    port = stream.wire.socket.getsockname()[1]
    stream.send(rest)
    if way == "reset":
        stream.wire.abort()
    else:
        stream.close()
    eventually("the end of the connection", lambda: port not in peers(service))
    assert client.step_of(address) == 1
    assert client.step(address, [0])["predictions"] == [5.0]


def test_streams_side_by_side_keep_their_sessions_apart(service: Service, client: Client) -> None:
    addresses = [client.create("sum") for _ in range(12)]

    def run(number: int) -> None:
        with opened(service, addresses[number]) as stream:
            for step in range(1, 41):
                answer = stream.step([number])
                assert (answer["step"], answer["predictions"]) == (step, [float(step * number)])

    together(run, list(range(12)))


def test_a_client_that_expects_100_continue_gets_it(service: Service, client: Client) -> None:
    address = client.create("sum")
    wire = Wire(service.port)
    head = (
        f"POST {address}:stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: {NDJSON}\r\n"
        "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    wire.send(head.encode())
    assert wire.head()[0] == 100
    assert wire.head()[0] == 200
    line = line_of([1])
    wire.send(b"%x\r\n%s\r\n" % (len(line), line))
    assert b'"step":1' in wire.chunk()
    wire.close()


def test_a_broken_chunk_ends_the_stream_and_changes_nothing(service: Service, client: Client) -> None:
    address = client.create("sum")
    stream = service.stream(address)
    assert stream.step([1])["step"] == 1
    stream.wire.send(b"zz\r\n" + line_of([1]))
    assert b"step" not in stream.wire.rest()
    stream.close()
    assert client.step_of(address) == 1


def forwards_of(client: Client, model: str) -> int:
    (found,) = client.get(f"/v2/models/{model}/stats").expect()["model_stats"]
    return int(found["execution_count"])


def successes_of(client: Client, model: str) -> list[int]:
    """How many steps have succeeded, and how many failed."""
    (found,) = client.get(f"/v2/models/{model}/stats").expect()["model_stats"]
    return [int(found["inference_stats"][kind]["count"]) for kind in ("success", "fail")]


def numbers_of(line: Any) -> list[torch.Tensor]:
    """The numbers that a line's instances give."""
    return [torch.tensor(entry["probabilities"] if isinstance(entry, dict) else entry) for entry in line["predictions"]]


STREAMS = 1000


def test_a_thousand_idle_streams_of_each_kind_cost_little_and_stop_nobody(launch: Launch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5 * STREAMS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"this machine allows only {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    own = launch()
    with own.client() as client:
        address = client.create("digits-rnn")
        row = [0] * 8
        warm = [own.stream(address) for _ in range(20)]
        assert [stream.step([row])["step"] for stream in warm] == list(range(1, 21))
        before = memory(own)
        streams = [own.stream(address) for _ in range(STREAMS)]
        each = (memory(own) - before) / STREAMS
        assert each < 64 * 1024, f"{each:.0f} bytes a stream"
        before = memory(own)
        others = [opened_by(own, f"GET {address}:stream", UPGRADE, 101) for _ in range(STREAMS)]
        others += [opened_by(own, f"GET {address}/events", {}, 200) for _ in range(STREAMS)]
        each = (memory(own) - before) / len(others)
        assert each < 64 * 1024, f"{each:.0f} bytes a WebSocket, or a stream of events"
        busy = own.workers()
        assert len(busy) == 2

        def ask() -> int:
            with own.client() as other:
                session = other.create("digits-rnn")
                for step in range(1, 51):
                    assert other.step(session, [row])["step"] == step
                    assert len(other.predict("digits-batchnorm", [[0] * 64])) == 1
                return other.step_of(session)

        assert at_once(ask, ask, ask) == [50, 50, 50]
        seen = {stream.step([row])["step"] for stream in streams[::10]}
        assert seen == set(range(21, 121))
        for wire in others[:STREAMS:10]:
            wire.send(Frame(TEXT, line_of([row])).serialize(mask=True))
        for wire in others[:STREAMS:10]:
            assert b'"step":' in wire.some()
        for stream in streams + warm:
            stream.close()
        for wire in others:
            wire.close()
        eventually("the connections' end", lambda: len(peers(own)) < 20)
        assert client.step_of(address) == 220
        assert {worker.pid for worker in own.workers()} == {worker.pid for worker in busy}


def memory(service: Service) -> int:
    """Bytes that the workers have resident."""
    return sum(worker.memory_info().rss for worker in service.workers())


def opened_by(service: Service, start: str, headers: dict[str, str], status: int) -> Wire:
    """A connection that a request has opened for good."""
    wire = Wire(service.port)
    method, path = start.split()
    wire.send(request_bytes(method, path, headers))
    assert wire.head()[0] == status
    return wire


def peers(service: Service) -> set[int]:
    """The clients' ports of all connections that the workers still hold."""
    return {
        connection.raddr.port
        for worker in service.workers()
        for connection in worker.net_connections("tcp4")
        if connection.raddr
    }
