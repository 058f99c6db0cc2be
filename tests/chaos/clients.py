"""Clients that do not give up: a request has a key, and is sent until it gets a response.

Those that have no key are sent once; of a session whose last step got no response, no more are sent.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from random import Random
from typing import Any

from carryover.client import Client, ProblemError, Retries
from tests.chaos.sessions import Session
from tests.support import client as bare
from tests.support.client import JSON
from tests.support.connections import Wire, request_bytes

TIMEOUT = 4.0
"""Seconds that a client waits for a response before it retries."""
GIVE_UP = 120.0
"""Seconds after which a request is taken to never be answered."""
_LONG = 1.0
"""Seconds after which a call counts as one that a fault has met."""


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
    Those that are `plain` are stepped by nobody else, one after another, without a key and over one connection.
    """

    def __init__(
        self, port: int, number: int, seed: int, sessions: Sequence[Session], plain: Sequence[Session], tally: Tally
    ) -> None:
        super().__init__(name=f"client {number}")
        self._port = port
        self._number = number
        self._rng = Random(f"{seed} client {number}")
        self._sessions = sessions
        self._plain = list(plain)
        self._connection = bare.Client(port, TIMEOUT)
        self._tally = tally
        self._stop_asked = threading.Event()
        self._client = Client(
            f"http://127.0.0.1:{port}", timeout=TIMEOUT, retries=Retries(GIVE_UP, first=0.05, longest=0.5)
        )
        self._sent = 0

    def finish(self) -> None:
        """Begin no further step."""
        self._stop_asked.set()

    def run(self) -> None:
        try:
            with self._client, self._connection:
                while not self._stop_asked.is_set():
                    self._turn(self._rng.choice(self._sessions), self._rng.random())
        except Exception as error:  # noqa: BLE001 - whatever it is, the run must not pass
            self._tally.complain(f"{self.name}: {type(error).__name__}: {error}")

    def _turn(self, session: Session, way: float) -> None:
        if self._plain and self._rng.random() < 0.1:
            self._unkeyed(self._plain[0])
        elif way < 0.1 and session.kind.model != "accumulator":
            self._stream(session)
        elif way < 0.2 and session.kind.model != "accumulator":
            self._bulk(session)
        elif way < 0.35 and session.acknowledged:
            self._on_a_step(session)
        else:
            self._step(session, cut=way > 0.85)

    def _key(self) -> str:
        self._sent += 1
        return f"{self._number}-{self._sent}"

    def _step(self, session: Session, *, cut: bool) -> None:
        rows, key = session.kind.rows(self._rng), self._key()
        if cut:
            self._cut(session, rows, key)
        self._acknowledge(session, rows, self._send(session, rows, key))

    def _on_a_step(self, session: Session) -> None:
        """Step with the step that the session is at; if another client was first, with that one.

        What is carried out is one of the attempts, which have one key: a 412 may come from a server that has lost its
        office and does not know of it yet, after another server has carried out the attempt before.
        """
        rows, key, tried = session.kind.rows(self._rng), self._key(), set[int]()
        with session.lock:
            step = max(number for number, _ in session.acknowledged)
        while True:
            tried.add(step)
            try:
                found = self._send(session, rows, key, step)
                break
            except ProblemError as problem:
                if problem.status != HTTPStatus.PRECONDITION_FAILED or problem.step is None:
                    raise
                self._tally.count("conflicts (412)")
                step = problem.step
        if found - 1 not in tried:
            self._tally.complain(f"{session.address}: a step on {sorted(tried)} was answered with {found}")
        self._acknowledge(session, rows, found)

    def _bulk(self, session: Session) -> None:
        """Step all the client's sessions of one model in one call."""
        sessions = [one for one in self._sessions if one.kind is session.kind]
        rows = {one.name: one.kind.rows(self._rng) for one in sessions}
        with self._timed():
            found = self._client.step_many(session.kind.model, rows, key=self._key())
        for one in sessions:
            step = found[one.name]
            if isinstance(step, ProblemError):
                raise step
            self._acknowledge(one, rows[one.name], step.step)

    def _stream(self, session: Session) -> None:
        """Step in a stream."""
        with self._client.session(session.kind.model, session.name).stream() as stream:
            for _ in range(self._rng.randint(2, 48)):
                rows = session.kind.rows(self._rng)
                with self._timed():
                    step = stream.step(rows, key=self._key())
                self._acknowledge(session, rows, step.step)

    def _unkeyed(self, session: Session) -> None:
        """Step a session many times without a key; leave it once it is not known what became of a step."""
        for _ in range(self._rng.randint(20, 80)):
            rows = session.kind.rows(self._rng)
            try:
                answer = self._connection.post(*session.kind.step(session.name, rows))
            except (OSError, HTTPException):
                answer = None
            if answer is None or answer.status != HTTPStatus.OK:
                session.unsure = rows
                self._plain.remove(session)
                self._connection.close()
                self._tally.count("steps without a key whose outcome is not known")
                return
            self._acknowledge(session, rows, answer.json["step"])
            self._tally.count("steps without a key")

    def _cut(self, session: Session, rows: list[Any], key: str) -> None:
        """Send a request and go away."""
        path, asked = session.kind.step(session.name, rows)
        # Byte for byte what the client sends: a key belongs to one body.
        body = json.dumps(asked, separators=(",", ":")).encode()
        headers = {"Content-Type": JSON, "Idempotency-Key": key, "Content-Length": str(len(body))}
        pause = self._rng.choice((0.0, 0.0, 0.001, 0.01))
        try:
            wire = Wire(self._port, TIMEOUT)
            wire.send(request_bytes("POST", path, headers, body))
            time.sleep(pause)
            wire.abort()
        except OSError:
            return
        self._tally.count("fault: connection cut between request and response")

    def _send(self, session: Session, rows: list[Any], key: str, if_step: int | None = None) -> int:
        """Step a session, and return the step that it is at then."""
        with self._timed():
            if session.kind.model == "accumulator":
                return self._client.accumulator(session.name).add(rows, key=key, if_step=if_step)["step"]
            return self._client.session(session.kind.model, session.name).step(rows, key=key, if_step=if_step).step

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        if time.monotonic() - start > _LONG:
            self._tally.count(f"calls over {_LONG:g} s")

    def _acknowledge(self, session: Session, rows: list[Any], step: int) -> None:
        session.acknowledge(step, rows)
        self._tally.count("steps")
