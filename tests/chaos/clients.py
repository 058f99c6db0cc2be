"""Clients that do not give up: each request has a key, and is sent until it gets a response."""

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from random import Random
from typing import Any

from tests.chaos.sessions import Session
from tests.support.client import JSON, Client, Response
from tests.support.connections import Stream, Wire, request_bytes

TIMEOUT = 4.0
"""Seconds that a client waits for a response before it retries."""
GIVE_UP = 120.0
"""Seconds after which a request is taken to never be answered."""
_AGAIN = (HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class GivenUpError(Exception):
    """A request was never answered, or wrongly."""


@dataclass
class Tally:
    """What happened, counted by all clients together."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        """Count something that happened."""
        with self._lock:
            self.counts[what] += number

    def complain(self, what: str) -> None:
        """Note what must not happen."""
        with self._lock:
            self.wrong.append(what)


class Stepper(threading.Thread):
    """Steps sessions until told to stop; in the end each of its requests is answered.

    Of its sessions some are stepped by others too. A step goes out on its own, with or without the step that it is to
    run on; in a stream; in a call for several sessions; or over a connection that is cut before the response is read.
    """

    def __init__(self, port: int, number: int, seed: int, sessions: Sequence[Session], tally: Tally) -> None:
        super().__init__(name=f"client {number}")
        self._port = port
        self._number = number
        self._rng = Random(f"{seed} client {number}")
        self._sessions = sessions
        self._tally = tally
        self._stop_asked = threading.Event()
        self._client = Client(port, TIMEOUT)
        self._sent = 0

    def finish(self) -> None:
        """Begin no further step."""
        self._stop_asked.set()

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                session = self._rng.choice(self._sessions)
                way = self._rng.random()
                if way < 0.1 and session.kind.model != "accumulator":
                    self._stream(session)
                elif way < 0.2 and session.kind.model != "accumulator":
                    self._bulk(session)
                elif way < 0.35 and session.acknowledged:
                    self._on_a_step(session)
                else:
                    self._step(session, cut=way > 0.85)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run must not pass
            self._tally.complain(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self._client.close()

    def _key(self) -> str:
        self._sent += 1
        return f"{self._number}-{self._sent}"

    def _step(self, session: Session, *, cut: bool) -> None:
        rows = session.kind.rows(self._rng)
        headers = {"Content-Type": JSON, "Idempotency-Key": self._key()}
        body = _body(session, rows)
        if cut:
            self._cut(_path(session), body, headers)
        answer = self._ask(_path(session), body, headers)
        self._acknowledge(session, rows, answer.json)

    def _on_a_step(self, session: Session) -> None:
        """Step with the step that the session is at; if another client was first, with that one.

        What is carried out is one of the attempts, which have one key: a 412 may come from a server that has lost its
        office and does not know of it yet, after another server has carried out the attempt before.
        """
        rows = session.kind.rows(self._rng)
        body = _body(session, rows)
        with session.lock:
            step = max(number for number, _ in session.acknowledged)
        key, tried = self._key(), set[int]()
        while True:
            tried.add(step)
            headers = {"Content-Type": JSON, "Idempotency-Key": key, "If-Match": f'"{step}"'}
            answer = self._ask(_path(session), body, headers)
            if answer.status != HTTPStatus.PRECONDITION_FAILED:
                break
            self._tally.count("conflicts (412)")
            step = answer.json["step"]
        if answer.json["step"] - 1 not in tried:
            self._tally.complain(
                f"{session.address}: a step on {sorted(tried)} was answered with {answer.json['step']}"
            )
        self._acknowledge(session, rows, answer.json)

    def _bulk(self, session: Session) -> None:
        """Step all the client's sessions of one model in one call."""
        sessions = [one for one in self._sessions if one.kind is session.kind]
        rows = {one.name: one.kind.rows(self._rng) for one in sessions}
        body = json.dumps({"sessions": rows}).encode()
        path = f"/v1/models/{session.kind.model}/sessions:predict"
        headers = {"Content-Type": JSON, "Idempotency-Key": self._key()}
        done: dict[str, Any] = {}
        deadline = time.monotonic() + GIVE_UP
        while len(done) < len(rows):
            entries = self._ask(path, body, headers).json["sessions"]
            for name, entry in entries.items():
                if entry.get("status") in _AGAIN:
                    self._tally.count("retries")
                elif "predictions" not in entry:
                    raise GivenUpError(f"{path}: {entry}")
                elif done.setdefault(name, entry) != entry:
                    raise GivenUpError(f"{path}: the response to one key is first {done[name]}, then {entry}")
            if time.monotonic() > deadline:
                raise GivenUpError(f"{path}: not answered in {GIVE_UP:.0f} s")
            if len(done) < len(rows):
                time.sleep(0.2)
        for one in sessions:
            self._acknowledge(one, rows[one.name], done[one.name])

    def _stream(self, session: Session) -> None:
        """Step in a stream; a line that is not answered goes again into another one."""
        lines = []
        for _ in range(self._rng.randint(2, 6)):
            rows = session.kind.rows(self._rng)
            lines.append((rows, json.dumps({"instances": rows, "idempotency_key": self._key()}).encode() + b"\n"))
        stream: Stream | None = None
        deadline = time.monotonic() + GIVE_UP
        while lines:
            rows, line = lines[0]
            try:
                if stream is None:
                    stream = Stream(self._port, session.address)
                    stream.wire.socket.settimeout(TIMEOUT)
                    stream.open()
                stream.send(line)
                answer = stream.line()
            except (OSError, AssertionError, ValueError):
                # Cut, refused or answered 503 before the first line.
                if stream is not None:
                    stream.close()
                stream, answer = None, None
                self._tally.count("connections lost")
            if answer is not None and "predictions" in answer:
                self._acknowledge(session, rows, answer)
                lines.pop(0)
                continue
            if answer is not None and answer.get("status") not in _AGAIN:
                raise GivenUpError(f"{session.address}: {answer}")
            if time.monotonic() > deadline:
                raise GivenUpError(f"{session.address}:stream: not answered in {GIVE_UP:.0f} s")
            self._tally.count("retries")
            time.sleep(0.1)
        if stream is not None:
            stream.close()

    def _cut(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Send a request and go away."""
        pause = self._rng.choice((0.0, 0.0, 0.001, 0.01))
        try:
            wire = Wire(self._port, TIMEOUT)
            wire.send(request_bytes("POST", path, headers | {"Content-Length": str(len(body))}, body))
            time.sleep(pause)
            wire.abort()
        except OSError:
            self._tally.count("connections lost")
            return
        self._tally.count("fault: connection cut between request and response")

    def _ask(self, path: str, body: bytes, headers: dict[str, str]) -> Response:
        """Send a request until it is answered for good."""
        deadline = time.monotonic() + GIVE_UP
        while time.monotonic() < deadline:
            try:
                answer = self._client.request("POST", path, body, headers)
            except (OSError, HTTPException):
                self._client.close()
                self._tally.count("connections lost")
            else:
                if answer.status in (HTTPStatus.OK, HTTPStatus.PRECONDITION_FAILED):
                    if answer.headers["Idempotency-Replayed"] is not None:
                        self._tally.count("replays")
                    return answer
                if answer.status not in _AGAIN:
                    raise GivenUpError(f"{path}: {answer.status} {answer.body[:300]!r}")
                self._tally.count(f"responses {answer.status}")
            self._tally.count("retries")
            time.sleep(self._rng.uniform(0.05, 0.3))
        raise GivenUpError(f"{path}: not answered in {GIVE_UP:.0f} s")

    def _acknowledge(self, session: Session, rows: list[Any], answer: Any) -> None:
        session.acknowledge(answer["step"], rows)
        self._tally.count("steps")


def _path(session: Session) -> str:
    return session.address if session.kind.model == "accumulator" else f"{session.address}:predict"


def _body(session: Session, rows: list[Any]) -> bytes:
    return json.dumps({"values" if session.kind.model == "accumulator" else "instances": rows}).encode()
