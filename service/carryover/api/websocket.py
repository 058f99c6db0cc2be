"""WebSocket (RFC 6455): the handshake, and streams whose lines are messages.

There are no extensions: compression would take memory for each connection, also for those that are idle.
"""

import logging
import time
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import gevent
from websockets.frames import BINARY, CONT, TEXT, CloseCode, Frame
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.utils import accept_key

from carryover.api import auth
from carryover.api.duplex import AHEAD, PIECE, Duplex, Streams
from carryover.api.inbound import Inbound
from carryover.api.response import Headers
from carryover.api.sending import send
from carryover.api.transport import CutShortError, draining, until_drained, upgraded
from carryover.errors import BodyTooLargeError, InvalidInputError, StreamEndedError, UpgradeRequiredError

SUBPROTOCOL = "carryover"
"""The only subprotocol; a client that names none speaks the same."""
PING_SECONDS = 30.0
"""How long nothing may arrive until the client is asked whether it is there; proxies, too, close what is silent."""
_SILENT_SECONDS = 3 * PING_SECONDS
_KEY_BYTES = 16
_REASON = 120
"""Most characters of the reason in a close frame; RFC 6455 has room for 123 bytes."""

log = logging.getLogger("websockets.server")
log.setLevel(logging.WARNING)


def accepted(inbound: Inbound) -> Headers:
    """Return the headers of the response that accepts a handshake.

    Raises:
        UpgradeRequiredError: the request does not ask for WebSocket, or for another version of it.
        InvalidInputError: it does, and is malformed.

    """
    headers = inbound.headers
    asked = "websocket" in _tokens(headers.get("upgrade")) and "upgrade" in _tokens(headers.get("connection"))
    if inbound.method != "GET" or not asked or headers.get("sec-websocket-version") != "13":
        raise UpgradeRequiredError(
            "this route speaks WebSocket; expected Upgrade: websocket, Connection: Upgrade and Sec-WebSocket-Version: "
            "13. POST sends lines of JSON to the same path"
        )
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise InvalidInputError(f"Sec-WebSocket-Key: {key!r:.80} is invalid; expected 16 bytes in base64")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise InvalidInputError("a WebSocket handshake has a body; expected no Content-Length and no Transfer-Encoding")
    agreed = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key)))
    return (*agreed, *_subprotocol(headers.get("sec-websocket-protocol")))


def _subprotocol(offered: str | None) -> Headers:
    """Return the header that chooses a subprotocol: never one that is a key."""
    if offered is None:
        return ()
    if SUBPROTOCOL not in map(str.strip, offered.split(",")):
        others = [name for name in map(str.strip, offered.split(",")) if not name.startswith(auth.SUBPROTOCOL)]
        raise InvalidInputError(
            f"Sec-WebSocket-Protocol names no protocol of the service; expected {SUBPROTOCOL}, got {others!s:.200}"
        )
    return (("Sec-WebSocket-Protocol", SUBPROTOCOL),)


def _tokens(value: str | None) -> list[str]:
    return [token.strip().lower() for token in (value or "").split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key, validate=True)) == _KEY_BYTES
    except ValueError:
        return False


class Frames:
    """The frames of a connection. Messages, text or binary, of at most `limit` bytes come in; lines go out as text.

    `unfinished` is how many bytes have arrived of a message of which not all has.
    """

    def __init__(self, limit: int) -> None:
        self._protocol = Protocol(SERVER, max_size=limit, logger=log)
        self._message = bytearray()
        self._text = False

    @property
    def unfinished(self) -> int:
        """How many bytes have arrived of a message of which not all has."""
        return len(self._message) + len(self._protocol.reader.buffer)

    @property
    def open(self) -> bool:
        """Whether neither side has said that it ends; a frame that is malformed ends the connection as well."""
        return self._protocol.state is OPEN

    @property
    def too_long(self) -> bool:
        """Whether the connection ends because a message is over the limit."""
        sent = self._protocol.close_sent
        return sent is not None and self._protocol.close_rcvd is None and sent.code == CloseCode.MESSAGE_TOO_BIG

    @property
    def closed_by_client(self) -> bool:
        """Whether the client has said that it ends."""
        return self._protocol.close_rcvd is not None

    def receive(self, data: bytes) -> bytes:
        """Take what has arrived; return the messages that are complete, each as a line."""
        self._protocol.receive_data(data)
        lines: list[bytes] = []
        for frame in self._protocol.events_received():
            if isinstance(frame, Frame) and frame.opcode in (TEXT, BINARY, CONT):
                self._text = frame.opcode is TEXT or (self._text and frame.opcode is CONT)
                self._message += frame.data
                if frame.fin:
                    lines.append(self._line())
        return b"".join(lines)

    def _line(self) -> bytes:
        """The message, as a line: in JSON a line break may stand where a carriage return may, and nowhere else."""
        message = bytes(self._message)
        self._message.clear()
        if self._text and self.open:
            try:
                message.decode()
            except UnicodeDecodeError:
                self._protocol.fail(CloseCode.INVALID_DATA, "the message is not UTF-8")
                return b""
        return message.replace(b"\n", b"\r") + b"\n"

    def pongs(self) -> bytes:
        """Return the responses to pings, until the connection ends."""
        return b"".join(self._protocol.data_to_send()) if self.open else b""

    def ping(self) -> bytes:
        """Return a ping."""
        if not self.open:
            return b""
        self._protocol.send_ping(b"")
        return self.pongs()

    def close(self, code: CloseCode, reason: str) -> bytes:
        """Return a close frame with this code, or the one that the client's own, or its error, requires."""
        if self.open:
            self._protocol.send_close(code, f"{reason:.{_REASON}}")
        return b"".join(self._protocol.data_to_send())


def text(lines: bytes) -> bytes:
    """Return lines as text messages."""
    return b"".join([Frame(TEXT, line).serialize(mask=False) for line in lines.split(b"\n") if line])


class Conversation(Duplex):
    """A stream whose lines are messages: what arrives after the head of the request, and is sent after its response."""

    def __init__(self, streams: Streams, environ: dict[str, Any]) -> None:
        super().__init__(streams, environ)
        self._socket = environ["gunicorn.socket"]
        self._frames = Frames(streams.bodies.limit)
        self._heard = self._asked = self._opened

    def __next__(self) -> bytes:
        """Return nothing, so that the response's head is sent; then send the messages: to gunicorn there is no body."""
        piece = super().__next__()
        while piece:
            send(self._socket, piece, 2 * self._streams.limits.send)
            piece = super().__next__()
        self._body.failed = True  # no request follows on this connection
        return piece

    def check(self, now: float) -> None:
        """End it if it is over one of its time limits, or if the client does not respond to pings."""
        super().check(now)
        if self._ended is not None or self._finished:
            return
        if len(self._arrived) > AHEAD:  # nothing is read until there is room again
            self._heard = now
            return
        if now - self._heard > _SILENT_SECONDS:
            self._end(f"the client has not responded for {_SILENT_SECONDS:g} s")
        elif now - max(self._heard, self._asked) > PING_SECONDS:
            self._asked = now
            self._add(self._frames.ping())

    def _pieces(self) -> Iterator[bytes]:
        frames = self._frames
        for data in until_drained(self._body, upgraded(self._body)):
            self._heard = time.monotonic()
            lines = frames.receive(data)
            pongs = frames.pongs()
            if len(self._unsent) <= PIECE:  # a client that reads nothing needs no responses to its pings
                self._add(pongs)
            if lines or frames.unfinished:
                yield lines
            if not frames.open:
                break
            gevent.sleep(0)  # whoever sends without end, and nothing that is a line, gets no more than a turn
        if frames.too_long:
            raise BodyTooLargeError(f"the message is longer than {self._streams.bodies.limit} bytes (MAX_BODY_BYTES)")
        if not frames.closed_by_client:
            raise CutShortError

    def _unfinished(self, piece: bytes) -> int:  # noqa: ARG002 - the frames know
        return self._frames.unfinished

    def _framed(self, lines: bytes) -> bytes:
        return text(lines)

    def _farewell(self) -> bytes:
        if self._failure is not None:
            return self._frames.close(CloseCode.INTERNAL_ERROR, "the service failed unexpectedly")
        ended = self._ended or self._received
        if isinstance(ended, StreamEndedError):
            return self._frames.close(CloseCode.SERVICE_RESTART if draining() else CloseCode.GOING_AWAY, ended.reason)
        return self._frames.close(CloseCode.NORMAL_CLOSURE, "")
