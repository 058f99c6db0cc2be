"""What browsers hold open: WebSockets, and Server-Sent Events."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.frames import CLOSE, TEXT, Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.client import Response, strict_json
from tests.support.connections import Wire, request_bytes
from tests.support.waiting import PATIENCE

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What the key above is accepted with (RFC 6455, section 1.3)."""
_TWO_BYTES = 126
"""What stands for a frame's length if that is in the two bytes that follow."""


def key_protocols(key: str) -> list[Subprotocol]:
    """The subprotocols with which a page says its API key."""
    data = urlsafe_b64encode(key.encode()).decode().rstrip("=")
    return [Subprotocol("carryover"), Subprotocol(f"carryover.bearer.{data}")]


@contextmanager
def talking(
    port: int, address: str, query: str = "", key: str = "", headers: Mapping[str, str] | None = None
) -> Iterator[ClientConnection]:
    """A WebSocket of a session; `key` is an API key, said as a page says it."""
    with connect(
        f"ws://127.0.0.1:{port}{address}:stream{query}",
        subprotocols=key_protocols(key) if key else None,
        additional_headers=dict(headers or {}),
        compression=None,
        proxy=None,
        ping_interval=None,
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
    ) as connection:
        yield connection


def spoken(port: int, path: str, message: bytes, headers: Mapping[str, str]) -> Response:
    """Send one message over a WebSocket; return what it is answered with as a line, or the response that rejects it."""
    wire = Wire(port)
    try:
        wire.send(request_bytes("GET", path, UPGRADE | dict(headers)))
        status, found = wire.head()
        if status != HTTPStatus.SWITCHING_PROTOCOLS:
            return Response(status, found, wire.body(found), path)
        wire.send(Frame(TEXT, message).serialize(mask=True) + Frame(CLOSE, b"").serialize(mask=True))
        (frame, *_) = frames_of(wire.rest())
        return Response(HTTPStatus.OK, found, frame[1] + b"\n", path)
    finally:
        wire.close()


def frames_of(data: bytes) -> Iterator[tuple[Opcode, bytes]]:
    """Yield the frames among what a service has sent, each of which is whole and not long."""
    while data:
        length, start = data[1], 2
        if length == _TWO_BYTES:
            length, start = int.from_bytes(data[2:4], "big"), 4
        assert data[0] & 0x80
        yield Opcode(data[0] & 0x0F), data[start : start + length]
        data = data[start + length :]


def speak(socket: ClientConnection, instances: Any, **members: Any) -> Any:
    """Send one step as a message, and return the response to it."""
    socket.send(json.dumps({"instances": instances, **members}))
    return heard(socket)


def heard(socket: ClientConnection) -> Any:
    """The next message."""
    message = socket.recv(PATIENCE)
    assert isinstance(message, str)
    return strict_json(message.encode())


def ending(socket: ClientConnection) -> tuple[list[Any], int, str]:
    """What the service says until it closes the connection: the messages, and the code and reason of the close."""
    found: list[Any] = []
    while True:
        try:
            found.append(heard(socket))
        except ConnectionClosed as closed:
            said = closed.rcvd
            return found, 1006 if said is None else said.code, "" if said is None else said.reason


@dataclass(frozen=True)
class Event:
    """One event."""

    kind: str
    data: Any
    id: str | None


class Events:
    """The events of a session as they come; `last` is the id of the last event that was read before."""

    def __init__(self, port: int, address: str, query: str = "", last: str | None = None, **headers: str) -> None:
        self.wire = Wire(port)
        given = headers if last is None else {"Last-Event-ID": last, **headers}
        self.wire.send(request_bytes("GET", f"{address}/events{query}", given))
        self.status, self.headers = self.wire.head()
        assert self.status == 200, self.wire.rest()
        assert self.headers.get_content_type() == "text/event-stream"
        self._rest = b""

    def next(self) -> Event | None:
        """The next event, without comments; None where the response ends."""
        while True:
            while b"\n\n" not in self._rest:
                piece = self.wire.chunk()
                if not piece:
                    assert not self._rest, self._rest
                    return None
                self._rest += piece
            block, _, self._rest = self._rest.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if not line.startswith(":"))
            if "event" in fields:
                return Event(fields["event"], strict_json(fields["data"].encode()), fields.get("id"))

    def steps(self, count: int) -> list[int]:
        """The steps that so many events say, all of which are steps."""
        found = [self.next() for _ in range(count)]
        assert {event.kind for event in found if event is not None} <= {"step"}, found
        return [event.data["step"] for event in found if event is not None]

    def close(self) -> None:
        self.wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
