"""The frames of WebSockets, and what is done about connections that are silent."""

import time
from collections.abc import Iterator
from pathlib import Path
from socket import SHUT_WR
from typing import Any

import gevent
import pytest
from gevent import socket as sockets
from gevent.event import Event
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.unreader import SocketUnreader
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, CloseCode, Frame

from carryover.api.bodies import Bodies
from carryover.api.cors import Origins
from carryover.api.duplex import AHEAD, StreamLimits, Streams
from carryover.api.following import BEAT_SECONDS, Following
from carryover.api.hangups import Hangups
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


class Observed(Conversation):
    """A conversation of which is known whether it reads no more."""

    @property
    def is_full(self) -> bool:
        return len(self._arrived) > AHEAD


def test_a_client_whose_messages_wait_is_not_taken_to_be_silent(streams: Streams, pair: tuple[Any, Any]) -> None:
    near, far = pair
    body = Body(LengthReader(SocketUnreader(near), 0))
    conversation = streams.open({"wsgi.input": body, "gunicorn.socket": near}, Observed)
    taken = conversation.chunks()
    ready = Event()

    def responses() -> Any:
        ready.wait()
        yield from taken

    conversation.respond(responses(), lambda _: None)
    assert next(conversation) == b""
    serving = gevent.spawn(list, conversation)
    message = Frame(TEXT, b" " * 60_000).serialize(mask=True)
    sending = gevent.spawn(far.sendall, 8 * message)
    while not conversation.is_full:
        gevent.sleep(0.001)
    late = time.monotonic() + 4 * PING_SECONDS
    conversation.check(late)
    conversation.check(late + PING_SECONDS - 1)
    ready.set()
    sending.join(10)
    far.settimeout(10)
    assert far.recv(2) == Frame(TEXT, b" " * 60_000).serialize(mask=False)[:2]  # neither a ping nor the end
    far.close()
    serving.join(10)
    conversation.close()


def test_a_check_that_fails_ends_no_others(streams: Streams) -> None:
    looks = [Event(), Event()]

    class Failing:
        def __init__(self, _: Streams, given: dict[str, Any]) -> None:
            self._look = given["look"]

        def check(self, _: float) -> None:
            self._look.set()
            raise RuntimeError

    opened = [streams.open({"look": look}, Failing) for look in looks]
    for _ in range(2):
        for look in looks:
            look.clear()
        assert all(look.wait(10) for look in looks)
    for one in opened:
        streams.close(one)


def test_a_socket_is_watched_for_its_end_and_for_nothing_else(pair: tuple[Any, Any]) -> None:
    near, far = pair
    other, _ = others = sockets.socketpair()
    hangups, ends, calls = Hangups(), Event(), list[str]()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    def end() -> None:
        calls.append("near")
        ends.set()

    hangups.watch(near.fileno(), end)
    hangups.watch(other.fileno(), lambda: calls.append("other"))
    far.sendall(b"data")
    gevent.sleep(0.01)
    assert calls == []
    far.shutdown(SHUT_WR)
    assert ends.wait(10)
    gevent.sleep(0.01)
    assert calls == ["near"]
    assert near.recv(10) == b"data"
    for one in (near, other, other):
        hangups.forget(one.fileno())
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    hangups.watch(near.fileno(), lambda: calls.append("again"))
    gevent.sleep(0.01)
    assert calls == ["near", "again"]
    hangups.forget(near.fileno())
    for one in others:
        one.close()


def test_events_say_something_now_and_then_until_they_end(streams: Streams, pair: tuple[Any, Any]) -> None:
    following = streams.open({"gunicorn.socket": pair[0]}, Following)
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
