"""Clients that send or read slowly, or stop in the middle: each costs a bounded time and a bounded memory."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import CLOSE, PING, TEXT, Close, Frame

from tests.support.client import JSON, problem, sentence
from tests.support.connections import Stream, Wire, line_of, request_bytes
from tests.support.metrics import Scrape
from tests.support.repository import write_batching
from tests.support.service import Launch, Service
from tests.support.sockets import UPGRADE, Events, ending, frames_of, speak, talking
from tests.support.waiting import eventually, together

PREDICT = "/v1/models/twice:predict"
BODY = b'{"instances":[1]}'
KIB = 1024


def sized(length: int) -> bytes:
    """The head of a prediction whose body has `length` bytes."""
    return request_bytes("POST", PREDICT, {"Content-Type": JSON, "Content-Length": str(length)})


CHUNKED = request_bytes("POST", PREDICT, {"Content-Type": JSON, "Transfer-Encoding": "chunked"})


def padded(length: int) -> bytes:
    """A body of this length that asks for one prediction."""
    return BODY[:-1].ljust(length - 1) + b"}"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits for a second only, for a body and for its responses to be read."""
    folder = tmp_path_factory.mktemp("hasty")
    write_batching(folder / "models")
    limits = {
        "BODY_TIMEOUT": 1,
        "SEND_TIMEOUT": 1,
        "MAX_STREAM_BUFFER": 2**20,
        "MAX_STREAM_IDLE": 2,
        "MAX_STREAMS": 3,
        "MAX_BODY_BYTES": 2**20,
    }
    with Service(folder / "service", MODEL_REPOSITORY=folder / "models", WORKERS=1, **limits) as running:
        yield running


@pytest.fixture
def wire(hasty: Service) -> Iterator[Wire]:
    connection = Wire(hasty.port)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        sized(100),
        sized(100) + BODY,
        sized(2**20) + padded(2**20)[: 900 * KIB],
        CHUNKED,
        CHUNKED + b"1",
        CHUNKED + b"11\r\n" + BODY[:5],
        CHUNKED + b"11\r\n" + BODY + b"\r\n0\r\n",
    ],
    ids=["nothing", "a-part", "most", "no-chunk", "part-of-a-size", "part-of-a-chunk", "no-end"],
)
def test_a_body_that_stops_arriving_is_408_and_the_connection_is_closed(wire: Wire, sent: bytes) -> None:
    wire.send(sent)
    response = wire.response()
    assert "BODY_TIMEOUT" in problem(response, 408)
    assert response.headers["Connection"] == "close"
    assert wire.rest() == b""


@pytest.mark.parametrize("framing", ["sized", "chunked", "size-of-a-chunk"])
def test_a_body_that_trickles_is_408(wire: Wire, framing: str) -> None:
    head, piece = {
        "sized": (sized(100_000), b" "),
        "chunked": (CHUNKED, b"1\r\n \r\n"),
        "size-of-a-chunk": (CHUNKED + b"1;a=", b"a"),
    }[framing]
    wire.send(head)
    start = time.monotonic()
    while wire.silent():
        assert time.monotonic() - start < 30
        wire.send(piece)
    problem(wire.response(), 408)


def test_a_large_body_that_keeps_arriving_may_take_longer(wire: Wire) -> None:
    body = padded(2**20)
    wire.send(sized(len(body)))
    start = time.monotonic()
    for part in range(4):
        assert wire.silent(0.6)
        wire.send(body[part * 256 * KIB : (part + 1) * 256 * KIB])
    assert time.monotonic() - start > 2
    assert wire.response().expect()["predictions"]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that holds two large bodies at a time."""
    folder = tmp_path_factory.mktemp("narrow")
    write_batching(folder / "models")
    limits = {"MAX_BODY_BYTES": 2**20, "MAX_INFLIGHT_BYTES": 2**21}
    with Service(folder / "service", MODEL_REPOSITORY=folder / "models", WORKERS=1, **limits) as running:
        yield running


def test_bodies_in_flight_are_bounded_together(narrow: Service) -> None:
    silent = [Wire(narrow.port) for _ in range(2)]
    for wire in silent:
        wire.send(sized(2**20) + padded(2**20)[:-10])

    def status() -> int:
        with narrow.client() as client:
            return client.post(PREDICT, padded(2**19)).status

    eventually("the limit", lambda: status() == HTTPStatus.SERVICE_UNAVAILABLE)
    with narrow.client() as client:
        response = client.post(PREDICT, padded(2**19))
        assert "MAX_INFLIGHT_BYTES" in problem(response, 503)
        assert int(response.headers["Retry-After"]) >= 1
        client.predict("twice", [1])  # on the same connection
    silent[0].send(padded(2**20)[-10:])
    silent[0].response().expect()
    silent[1].abort()
    eventually("room for others", lambda: status() == HTTPStatus.OK)
    with narrow.clients(8) as clients:
        for client in clients:
            client.post(PREDICT, padded(2**20)).expect()
    silent[0].close()


REQUESTS = 24


@pytest.fixture
def large(hasty: Service) -> Iterator[Wire]:
    """A connection with requests whose responses are together more than the sockets' buffers hold."""
    connection = Wire(hasty.port)
    body = b'{"instances":[%s]}' % b",".join([b"1"] * 100_000)
    last = request_bytes("GET", "/v2/health/live", {"Connection": "close"})
    requests = (sized(len(body)) + body) * REQUESTS + last
    sender = threading.Thread(target=suppressing(OSError, lambda: connection.send(requests)), daemon=True)
    sender.start()
    yield connection
    connection.abort()
    sender.join()


def suppressing(error: type[Exception], work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with suppress(error):
            work()

    return run


def held(service: Service, wire: Wire) -> bool:
    """Whether the worker still holds the connection."""
    port = wire.socket.getsockname()[1]
    (worker,) = service.workers()
    return any(end.raddr and end.raddr.port == port for end in worker.net_connections("tcp4"))


def test_a_client_that_does_not_read_is_closed(hasty: Service, large: Wire) -> None:
    eventually("a response", lambda: not large.silent())
    eventually("the end of the connection", lambda: not held(hasty, large))
    assert "SEND_TIMEOUT" in hasty.err()
    assert "Traceback" not in hasty.err()


def test_a_client_that_reads_slowly_gets_everything(large: Wire) -> None:
    start = time.monotonic()
    received = bytearray()
    while time.monotonic() - start < 4:  # four times SEND_TIMEOUT
        received += large.socket.recv(256 * KIB)
        time.sleep(0.3)
    while piece := large.socket.recv(2**20):
        received += piece
    assert received.count(b"HTTP/1.1 200 OK\r\n") == REQUESTS + 1
    assert received.endswith(b'{"live":true}')


def ended(line: Any, setting: str) -> None:
    """Check that a line says why its stream ends."""
    assert line["type"] == "urn:carryover:stream-ended"
    assert setting in sentence(line, 503)


def session(service: Service, model: str = "total") -> str:
    with service.client() as client:
        return client.create(model)


@pytest.mark.parametrize("sent", [b"", line_of([1]), line_of([1])[:5]], ids=["nothing", "a-line", "part-of-a-line"])
def test_a_stream_that_is_idle_ends_and_says_so(hasty: Service, sent: bytes) -> None:
    with hasty.stream(session(hasty)) as stream:
        if sent:
            stream.send(sent)
        if sent.endswith(b"\n"):
            assert stream.line()["step"] == 1
        ended(stream.line(), "MAX_STREAM_IDLE")
        assert stream.line() is None
        assert stream.wire.rest() == b""


def test_a_websocket_that_is_idle_ends_and_says_so(hasty: Service) -> None:
    with talking(hasty.port, session(hasty)) as socket:
        assert speak(socket, [1])["step"] == 1
        start = time.monotonic()

        def ping() -> None:  # which is nothing that is sent
            while time.monotonic() - start < 1.5:
                socket.ping().wait(1)
                time.sleep(0.1)

        pinging = threading.Thread(target=ping)
        pinging.start()
        (last,), code, reason = ending(socket)
        pinging.join()
    ended(last, "MAX_STREAM_IDLE")
    assert code == 1001
    assert "MAX_STREAM_IDLE" in reason
    assert 1.5 < time.monotonic() - start < 10


def test_a_long_message_that_stops_arriving_ends_its_websocket(hasty: Service) -> None:
    wire = Wire(hasty.port)
    wire.send(request_bytes("GET", f"{session(hasty)}:stream", UPGRADE))
    assert wire.head()[0] == HTTPStatus.SWITCHING_PROTOCOLS
    wire.send(Frame(TEXT, b" " * 200_000).serialize(mask=True)[:100_000])
    (_, line), (opcode, close) = frames_of(wire.rest())
    ended(json.loads(line), "BODY_TIMEOUT")
    assert (opcode, Close.parse(close).code) == (CLOSE, 1001)
    wire.close()


def test_a_long_line_that_stops_arriving_ends_its_stream(hasty: Service) -> None:
    with hasty.stream(session(hasty)) as stream:
        stream.send(b" " * 100_000)
        ended(stream.line(), "BODY_TIMEOUT")
        assert stream.line() is None


def test_what_streams_hold_is_bounded_together(narrow: Service) -> None:
    address = session(narrow)
    first, second, third = (narrow.stream(address) for _ in range(3))
    first.send(b" " * 900_000)
    second.send(b" " * 900_000)
    third.send(b" " * 900_000)
    streams = [first, second, third]
    stuck = eventually("the limit", lambda: next((one for one in streams if not one.wire.silent()), None))
    ended(stuck.line(), "MAX_INFLIGHT_BYTES")
    stuck.close()
    for stream in streams:
        if stream is not stuck:
            assert stream.wire.silent()
            stream.send(line_of([1]))
            assert "step" in stream.line()
            stream.close()


def test_a_stream_that_is_busy_may_last_until_its_total_time(launch: Launch, few: Path) -> None:
    service = launch(MODEL_REPOSITORY=few, WORKERS=1, MAX_STREAM_IDLE=2, MAX_STREAM_SECONDS=4)
    start = time.monotonic()
    with service.stream(session(service)) as stream:
        while "step" in (line := stream.step([1])):
            time.sleep(0.2)
        ended(line, "MAX_STREAM_SECONDS")
    assert time.monotonic() - start >= 4
    with Events(service.port, session(service)) as events, talking(service.port, session(service)) as socket:
        assert getattr(events.next(), "kind", "") == "state"
        (last,), code, _ = ending(socket)  # after being idle for as long as it may be
        ended(last, "MAX_STREAM_IDLE")
        assert code == 1001
        last = events.next()
        assert last is not None
        assert (last.kind, last.data["type"]) == ("ended", "urn:carryover:events-ended")
        assert "MAX_STREAM_SECONDS" in sentence(last.data, 503)
        assert events.next() is None


def test_streams_beyond_the_limit_are_503_until_one_ends(hasty: Service) -> None:
    address = session(hasty)
    streams = [hasty.stream(address) for _ in range(3)]
    late = Stream(hasty.port, address)
    response = late.wire.response()
    assert "MAX_STREAMS" in problem(response, 503)
    assert int(response.headers["Retry-After"]) >= 1
    late.close()
    for stream in streams:
        stream.close()

    def opened() -> bool:
        stream = Stream(hasty.port, address)
        try:
            return stream.status() == HTTPStatus.OK
        finally:
            stream.close()

    eventually("room for a stream", opened)


def test_streams_of_all_kinds_count_together(hasty: Service) -> None:
    address = session(hasty)

    def opened() -> bool:
        with ExitStack() as held, suppress(AssertionError, InvalidStatus):
            held.enter_context(talking(hasty.port, address))
            held.enter_context(Events(hasty.port, address))
            held.enter_context(hasty.stream(address))
            with hasty.client() as client:
                for path, headers in ((f"{address}:stream", UPGRADE), (f"{address}/events", {})):
                    assert "MAX_STREAMS" in problem(client.request("GET", path, headers=headers), 503)
            return True
        return False

    eventually("room for three", opened)


def test_a_websocket_that_is_not_read_holds_little_and_is_closed(hasty: Service) -> None:
    wire = Wire(hasty.port)
    wire.send(request_bytes("GET", f"{session(hasty)}:stream", UPGRADE))
    assert wire.head()[0] == HTTPStatus.SWITCHING_PROTOCOLS
    message = Frame(TEXT, NUMBERS).serialize(mask=True)
    pings = Frame(PING, b"x" * 100).serialize(mask=True) * 100
    before = sum(worker.memory_info().rss for worker in hasty.workers())
    with suppress(OSError):  # it is closed while this is sent
        for _ in range(10_000):
            wire.send(message + pings)
    grown = sum(worker.memory_info().rss for worker in hasty.workers()) - before
    assert grown < 32 * 2**20
    wire.close()
    with hasty.client() as client:
        client.get("/v2/health/live").expect()


NUMBERS = line_of([1] * 1_000)
ROWS = line_of([[1]] * 1_000)
LINES = 2_000


def send_all(stream: Stream, line: bytes) -> None:
    for _ in range(LINES):
        stream.send(line)
    stream.finish()


def test_a_client_that_sends_everything_before_it_reads_is_told_why_its_stream_ended(hasty: Service) -> None:
    """The responses are about 20 MB: more than the sockets and the stream hold."""
    address = session(hasty, "talks")
    with hasty.stream(address) as stream:
        send_all(stream, ROWS)
        lines = list(iter(stream.line, None))
    ended(lines[-1], "SEND_TIMEOUT")
    assert [line["step"] for line in lines[:-1]] == list(range(1, len(lines)))
    assert 10 < len(lines) < LINES
    with hasty.client() as client:
        assert client.step_of(address) == len(lines) - 1
        client.predict("twice", [1])


def test_a_client_that_sends_everything_first_gets_all_that_fits(hasty: Service) -> None:
    with hasty.stream(session(hasty)) as stream:
        send_all(stream, NUMBERS)
        assert [line["step"] for line in iter(stream.line, None)] == list(range(1, LINES + 1))


def test_streams_that_are_not_read_hold_little_and_are_closed(hasty: Service) -> None:
    (worker,) = hasty.workers()
    address = session(hasty, "talks")
    with hasty.client() as client:
        client.step(address, [[1]] * 1_000)
        eventually("the end of all other streams", lambda: Scrape(client).value("carryover_streams") == 0)
    before = worker.memory_info().rss
    streams = [hasty.stream(address) for _ in range(3)]
    peak = 0

    def send(stream: Stream) -> None:
        nonlocal peak
        with suppress(OSError):
            while True:
                stream.send(ROWS)
                peak = max(peak, worker.memory_info().rss)

    together(send, streams)
    assert peak - before < 64 * 2**20
    for stream in streams:
        assert not held(hasty, stream.wire)
        stream.close()


def test_out_of_file_descriptors_the_service_goes_on_and_logs_one_line(launch: Launch, few: Path) -> None:
    service = launch(MODEL_REPOSITORY=few, WORKERS=1)
    address = session(service)
    (worker,) = service.workers()
    limit = worker.num_fds() + 20
    worker.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))

    idle = [Wire(service.port) for _ in range(100)]
    with service.client() as client:
        assert client.step(address, [1])["step"] == 1
    for wire in idle:
        wire.close()

    streams = [Stream(service.port, address) for _ in range(40)]
    eventually("the limit", lambda: worker.num_fds() >= limit)
    late = Wire(service.port)
    late.send(request_bytes("GET", "/v2/health/live", {}))
    assert late.silent(1)
    for stream in streams:
        stream.close()
    late.response().expect()
    late.close()
    assert service.err().count("cannot accept connections") == 1
    assert "Traceback" not in service.err()
