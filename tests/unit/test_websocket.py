"""The frames of WebSockets, and what is done about connections that are silent."""

import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import gevent
import pytest
from gevent import socket as sockets
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.unreader import SocketUnreader
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, CloseCode, Frame

from carryover.api.bodies import Bodies
from carryover.api.cors import Origins
from carryover.api.duplex import StreamLimits, Streams
from carryover.api.following import BEAT_SECONDS, Following
from carryover.api.websocket import PING_SECONDS, Conversation, Frames, text
from carryover.errors import EventsEndedError
from carryover.telemetry.metrics import Gauge
from tests.support.sockets import frames_of

messages = st.lists(st.tuples(st.binary(max_size=200), st.booleans(), st.integers(1, 4)), max_size=8)


@settings(max_examples=20)
@given(messages, st.integers(1, 50))
def test_messages_become_lines_however_they_arrive(sent: list[tuple[bytes, bool, int]], size: int) -> None:
    data, expected = b"", b""
    for message, plain, parts in sent:
        content = message.hex().encode() if plain else message
        cuts = [content[len(content) * i // parts : len(content) * (i + 1) // parts] for i in range(parts)]
        for number, part in enumerate(cuts):
            kind = CONT if number else TEXT if plain else BINARY
            data += Frame(PING, b"?").serialize(mask=True)
            data += Frame(kind, part, fin=number == parts - 1).serialize(mask=True)
        expected += content.replace(b"\n", b"\r") + b"\n"
    frames = Frames(1000)
    found = b"".join(frames.receive(data[start : start + size]) for start in range(0, len(data), size))
    assert found == expected
    assert frames.open
    assert frames.unfinished == 0
    assert {opcode for opcode, _ in frames_of(frames.pongs())} <= {PONG}


def test_lines_become_messages() -> None:
    assert list(frames_of(text(b'{"a":1}\n{}\n'))) == [(TEXT, b'{"a":1}'), (TEXT, b"{}")]
    assert text(b"") == b""


def test_an_end_is_said_once() -> None:
    frames = Frames(10)
    assert [opcode for opcode, _ in frames_of(frames.close(CloseCode.GOING_AWAY, "é" * 40))] == [CLOSE]
    assert not frames.open
    assert frames.close(CloseCode.GOING_AWAY, "") == frames.ping() == frames.pongs() == b""
    frames = Frames(10)
    assert frames.receive(Frame(TEXT, b"x" * 11).serialize(mask=True)) == b""
    assert frames.too_long
    assert [opcode for opcode, _ in frames_of(frames.close(CloseCode.NORMAL_CLOSURE, ""))] == [CLOSE]


LIMITS = StreamLimits(streams=2, idle=1000.0, seconds=2000.0, buffer=2**20, send=1.0)


@pytest.fixture
def streams() -> Streams:
    return Streams(LIMITS, Bodies(2**20, 1.0, 2**21), Gauge(), Origins(frozenset()))


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    near, far = sockets.socketpair()
    yield near, far
    near.close()
    far.close()


def test_a_silent_client_is_asked_whether_it_is_there(streams: Streams, pair: tuple[Any, Any]) -> None:
    near, far = pair
    body = Body(LengthReader(SocketUnreader(near), 0))
    conversation = streams.open({"wsgi.input": body, "gunicorn.socket": near}, Conversation)

    def responses() -> Any:
        yield from conversation.chunks()

    sent: list[int] = []
    conversation.respond(responses(), sent.append)
    assert next(conversation) == b""
    serving = gevent.spawn(list, conversation)
    now = time.monotonic()
    conversation.check(now + PING_SECONDS - 1)
    conversation.check(now + PING_SECONDS + 1)
    conversation.check(now + PING_SECONDS + 2)
    far.settimeout(10)
    assert list(frames_of(far.recv(100))) == [(PING, b"")]
    far.sendall(Frame(TEXT, b"{}").serialize(mask=True))
    assert list(frames_of(far.recv(100))) == [(TEXT, b"{}")]
    conversation.check(now + 3 * PING_SECONDS + 2)
    assert serving.get(timeout=10) == []
    conversation.close()
    frames = [frame for frame in frames_of(far.recv(1000)) if frame[0] is not PING]
    assert [opcode for opcode, _ in frames] == [CLOSE]
    assert b"has not responded for 90 s" in frames[0][1]
    assert len(sent) == 1


def test_events_say_something_now_and_then_until_they_end(streams: Streams) -> None:
    following = streams.open({"wsgi.input": BytesIO()}, Following)
    turns = following.chunks()
    now = time.monotonic()
    assert next(turns) == b""
    following.check(now + BEAT_SECONDS - 1)
    turn = gevent.spawn(next, turns)
    gevent.sleep(0)
    assert not turn.ready()
    following.check(now + BEAT_SECONDS + 1)
    assert turn.get(timeout=10) == b""
    following.check(now + LIMITS.seconds + 1)
    with pytest.raises(EventsEndedError, match="MAX_STREAM_SECONDS"):
        next(turns)
    following.close()
