"""Streams over WebSocket: each message is a line, and so is each response."""

import json
import threading
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import CLOSE, CONT, PONG, TEXT, Close, Frame

from tests.support.client import Client, problem, sentence
from tests.support.connections import Wire, line_of, request_bytes
from tests.support.service import Service
from tests.support.sockets import ACCEPT, UPGRADE, ending, frames_of, heard, speak, talking
from tests.support.waiting import together

LINES: list[bytes] = [
    b'{"instances":[1]}',
    b"not json",
    b'{"instances":["1"]}',
    b'{"instances":[]}',
    b'{"instances":[NaN]}',
    b'{"instances":[1],"extra":1}',
    b"[1]",
    b'{"instances":[3e38,3e38]}',
    b'{"instances":[2],"idempotency_key":"same"}',
    b'{"instances":[2],"idempotency_key":"same"}',
    b'{"instances":[3],"idempotency_key":"same"}',
    b"[" * 100_000,
    b'{"instances":[1]}',
]


def handshake(service: Service, address: str, headers: dict[str, str], method: str = "GET") -> Wire:
    wire = Wire(service.port)
    wire.send(request_bytes(method, f"{address}:stream", headers))
    return wire


def test_each_message_is_answered_before_the_next_is_sent(service: Service, client: Client) -> None:
    address = client.create("sum")
    with talking(service.port, address) as socket:
        for step in range(1, 21):
            assert speak(socket, [2]) == {
                "predictions": [2.0 * step],
                "session": address[-16:],
                "step": step,
                "version": "1",
            }
            assert client.step_of(address) == step
    assert client.step_of(address) == 20


def test_the_responses_are_those_of_lines(service: Service, client: Client) -> None:
    def plain(found: Any) -> Any:
        return {name: value for name, value in found.items() if name not in ("session", "request_id")}

    one, other = client.create("sum"), client.create("sum")
    with service.stream(one) as stream, talking(service.port, other) as socket:
        for line in LINES:
            stream.send(line + b"\n")
            socket.send(line.decode())
            assert plain(heard(socket)) == plain(stream.line())
    assert client.step_of(one) == client.step_of(other) == 3
    with talking(service.port, client.create("sum")) as socket:
        for line in LINES:
            socket.send(line.decode())
        found = [heard(socket) for _ in LINES]
    assert [each.get("status", each.get("step")) for each in found] == [
        1, 400, 400, 400, 400, 400, 400, 422, 2, 2, 422, 400, 3,
    ]  # fmt: skip


def test_a_message_may_have_any_form(service: Service, client: Client) -> None:
    with talking(service.port, client.create("sum")) as socket:
        socket.send('{\n  "instances": [\n    1\n  ]\n}\n')
        assert heard(socket)["step"] == 1
        socket.send(b'{"instances": [1]}')  # binary
        assert heard(socket)["step"] == 2
        socket.send(iter(['{"inst', "", 'ances": ', "[1]}"]))  # fragments
        assert heard(socket)["step"] == 3
        socket.send("")
        socket.send(" \n ")
        assert speak(socket, [1])["step"] == 4
        socket.send('{"instances": ["a\nb"]}')  # JSON has no line breaks in strings
        assert "JSON" in sentence(heard(socket), 400)
        assert socket.ping().wait(10)
        assert speak(socket, [1])["step"] == 5


def test_messages_that_come_together_are_answered_in_order(service: Service, client: Client) -> None:
    with talking(service.port, client.create("sum")) as socket:
        for _ in range(500):
            socket.send('{"instances": [1]}')
        assert [heard(socket)["step"] for _ in range(500)] == list(range(1, 501))


def test_what_was_sent_before_the_close_is_run_and_answered(service: Service, client: Client) -> None:
    address = client.create("sum")
    wire = handshake(service, address, UPGRADE)
    assert wire.head()[0] == 101
    line = Frame(TEXT, line_of([1])).serialize(mask=True)
    wire.send(line * 3 + Frame(CLOSE, Close(1000, "done").serialize()).serialize(mask=True))
    frames = list(frames_of(wire.rest()))
    assert [opcode for opcode, _ in frames] == [TEXT] * 3 + [CLOSE]
    assert [json.loads(data)["step"] for opcode, data in frames if opcode is TEXT] == [1, 2, 3]
    assert Close.parse(frames[-1][1]).code == 1000
    wire.close()
    assert client.step_of(address) == 3


def test_a_client_that_goes_in_the_middle_of_a_message_leaves_no_trace(service: Service, client: Client) -> None:
    address = client.create("sum")
    for way in (Wire.close, Wire.abort):
        wire = handshake(service, address, UPGRADE)
        assert wire.head()[0] == 101
        wire.send(Frame(TEXT, line_of([1])).serialize(mask=True)[:-3])
        way(wire)
    assert client.step(address, [5])["predictions"] == [5.0]


@pytest.mark.parametrize("way", ["whole", "fragments"])
def test_a_message_that_is_too_long_is_the_last(single: Service, way: str) -> None:
    with single.client() as client:
        address = client.create("total")
    with talking(single.port, address) as socket:
        assert speak(socket, [1])["step"] == 1
        message = " " * 20_001 + '{"instances": [1]}'
        socket.send(message if way == "whole" else iter([message[:15_000], message[15_000:]]))
        messages, code, _ = ending(socket)
    assert code == 1009
    (last,) = messages
    assert "MAX_BODY_BYTES" in sentence(last, 413)
    with single.client() as client:
        assert client.step_of(address) == 1


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(TEXT, b"\xff").serialize(mask=True), 1007),
        (Frame(TEXT, b"{}").serialize(mask=False), 1002),
        (Frame(CONT, b"{}").serialize(mask=True), 1002),
        (b"\xff\xff" + bytes(20), 1002),
        (b"\xc1\x80" + bytes(4), 1002),
    ],
    ids=["not-utf-8", "unmasked", "nothing-to-continue", "no-frame", "compressed"],
)
def test_a_malformed_frame_ends_the_connection_and_says_what_is_wrong(
    service: Service, client: Client, frame: bytes, code: int
) -> None:
    address = client.create("sum")
    wire = handshake(service, address, UPGRADE)
    assert wire.head()[0] == 101
    wire.send(Frame(TEXT, line_of([1])).serialize(mask=True) + frame)
    frames = list(frames_of(wire.rest()))
    assert [opcode for opcode, _ in frames] == [TEXT, CLOSE]
    assert Close.parse(frames[1][1]).code == code
    wire.close()
    assert client.step_of(address) == 1


@pytest.mark.parametrize(
    ("address", "query", "status"),
    [
        ("/v1/models/sum/sessions/never-there", "", 404),
        ("/v1/models/nothing/sessions/a", "", 404),
        ("/v1/models/digits-batchnorm/sessions/a", "", 400),
        ("/v1/models/sum/sessions/not%20a%20name", "", 400),
        ("/v1/models/sum/sessions/a", "?create=yes", 400),
        ("/v1/models/sum/sessions/a", "?create=true&if_match=three", 400),
        ("/v1/models/sum/sessions/a", "?create=true&if_none_match=3", 400),
        ("/v1/models/sum/sessions/never-there", "?create=true&if_match=3", 412),
    ],
)
def test_what_is_wrong_before_any_message_is_a_response(
    service: Service, address: str, query: str, status: int
) -> None:
    wire = Wire(service.port)
    wire.send(request_bytes("GET", f"{address}:stream{query}", UPGRADE))
    problem(wire.response(), status)
    wire.send(request_bytes("GET", "/v2/health/live", {}))
    wire.response().expect()
    wire.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 426),
        ({"Upgrade": "h2c", "Connection": "Upgrade"}, 426),
        ({**UPGRADE, "Sec-WebSocket-Version": "8"}, 426),
        ({name: value for name, value in UPGRADE.items() if name != "Connection"}, 426),
        ({**UPGRADE, "Sec-WebSocket-Key": "short"}, 400),
        ({**UPGRADE, "Sec-WebSocket-Key": "é"}, 400),
        ({name: value for name, value in UPGRADE.items() if name != "Sec-WebSocket-Key"}, 400),
        ({**UPGRADE, "Sec-WebSocket-Protocol": "graphql-ws, mqtt"}, 400),
        ({**UPGRADE, "Sec-WebSocket-Protocol": "carryover.bearer.a2V5"}, 400),
        ({**UPGRADE, "Idempotency-Key": "a"}, 400),
        ({**UPGRADE, "Origin": "https://elsewhere.example"}, 403),
        ({**UPGRADE, "Origin": "null"}, 403),
    ],
    ids=str,
)
def test_a_request_that_is_no_handshake_is_a_problem(
    service: Service, client: Client, headers: dict[str, str], status: int
) -> None:
    wire = handshake(service, client.create("sum"), headers)
    response = wire.response()
    problem(response, status)
    if status == 426:
        assert response.headers["Upgrade"] == "websocket"
        assert response.headers["Connection"] == "upgrade"
        assert response.headers["Sec-WebSocket-Version"] == "13"
    wire.close()
    for method, body in (("POST", b'{"instances":[1]}'), ("HEAD", b"")):
        assert client.request(method, f"{client.create('sum')}:stream", body or None).status in (200, 415, 426)


def test_http_1_0_has_no_upgrade(service: Service, client: Client) -> None:
    wire = Wire(service.port)
    head = request_bytes("GET", f"{client.create('sum')}:stream", UPGRADE)
    wire.send(head.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert wire.rest().startswith(b"HTTP/1.0 426 ")
    wire.close()


def test_a_handshake_is_accepted_as_the_standard_has_it(service: Service, client: Client) -> None:
    same = {"Origin": f"http://localhost:{service.port}", "Host": f"LOCALHOST:{service.port}"}
    offered = {"Sec-WebSocket-Protocol": "other, carryover", "Sec-WebSocket-Extensions": "permessage-deflate"}
    for headers in (UPGRADE, UPGRADE | same, UPGRADE | offered, UPGRADE | {"Upgrade": "WebSocket"}):
        wire = handshake(service, client.create("sum"), headers)
        status, found = wire.head()
        assert status == 101
        assert (found["Upgrade"], found["Connection"], found["Sec-WebSocket-Accept"]) == (
            "websocket",
            "upgrade",
            ACCEPT,
        )
        assert found["Sec-WebSocket-Protocol"] == ("carryover" if "Sec-WebSocket-Protocol" in headers else None)
        assert "Sec-WebSocket-Extensions" not in found
        assert "Content-Length" not in found
        assert "Transfer-Encoding" not in found
        wire.close()


def test_a_session_is_created_by_the_first_message_where_that_is_asked_for(service: Service, client: Client) -> None:
    address = "/v1/models/sum/sessions/by-message"
    with talking(service.port, address, "?create=true&if_none_match=*") as socket:
        assert client.get(address).status == 404
        assert speak(socket, ["x"])["status"] == 400
        assert client.get(address).status == 404
        assert speak(socket, [1])["step"] == 1
        assert speak(socket, [1])["step"] == 2
    for query in ("?create=true&if_none_match=*", "?if_match=1", "?if_match=%221%22,7"):
        with pytest.raises(InvalidStatus) as raised, talking(service.port, address, query):
            pass
        assert raised.value.response.status_code == 412
    with talking(service.port, address, "?if_match=2") as socket:
        client.step(address, [1])
        assert speak(socket, [1])["status"] == 412


def test_a_session_that_is_deleted_in_the_middle_is_410(service: Service, client: Client) -> None:
    address = client.create("sum")
    with talking(service.port, address) as socket:
        assert speak(socket, [1])["step"] == 1
        client.delete(address)
        sentence(speak(socket, [1]), 410)
        sentence(speak(socket, [1]), 410)


def test_conversations_keep_their_sessions_apart(service: Service, client: Client) -> None:
    addresses = [client.create("sum") for _ in range(12)]

    def run(number: int) -> None:
        with talking(service.port, addresses[number]) as socket:
            for step in range(1, 31):
                answer = speak(socket, [number])
                assert (answer["step"], answer["predictions"]) == (step, [float(step * number)])

    together(run, list(range(12)))


@pytest.mark.parametrize(
    ("first", "more"),
    [(b"", Frame(PONG, b"")), (Frame(TEXT, b"{", fin=False).serialize(mask=True), Frame(CONT, b"", fin=False))],
    ids=["pongs", "a message without end"],
)
def test_frames_that_are_no_lines_hold_up_nobody(single: Service, first: bytes, more: Frame) -> None:
    flood, enough = more.serialize(mask=True) * 10_000, threading.Event()
    with single.client() as client:
        address = client.create("total")
        wire = handshake(single, address, UPGRADE)
        assert wire.head()[0] == 101
        wire.send(first)

        def send() -> None:
            while not enough.is_set():
                wire.send(flood)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            for step in (1, 2, 3):
                assert client.step(address, [1])["step"] == step
        finally:
            enough.set()
            sender.join()
            wire.close()
