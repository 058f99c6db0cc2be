"""The loads of a soak, each in a process of its own: what clients do with predictions, sessions, streams and totals."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import chain
from multiprocessing.queues import Queue
from random import Random

from tests.support.calls import post
from tests.support.client import Client, Response
from tests.support.connections import Stream

NAMES = 100
"""Sessions of a load that exist or have expired: names come again, so that what is remembered of them is bounded, and
all of them are in use when the warm-up ends."""
ROW = [1, 2, 3, 4, 5, 6, 7, 8]
PAUSE = 0.004
"""Seconds between two requests of a load: the service is busy, not overrun."""
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


@dataclass
class Outcome:
    """What a load has seen."""

    name: str
    requests: int = 0
    slowest: float = 0.0
    errors: list[str] = field(default_factory=list)

    def expect(self, response: Response, *statuses: int) -> Response:
        self.requests += 1
        if response.status not in (statuses or (HTTPStatus.OK,)) and len(self.errors) < 10:
            self.errors.append(f"{response.status} {response.body[:200]!r}")
        return response


Turn = Callable[[Client, Random, Outcome], None]


def predictions(client: Client, random: Random, seen: Outcome) -> None:
    rows = [[random.randrange(17) for _ in range(64)] for _ in range(random.choice((1, 1, 1, 8, 64)))]
    body = {"instances": rows}
    seen.expect(client.post("/v1/models/digits-batchnorm:predict", body))
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [len(rows), 64], "data": [*chain.from_iterable(rows)]}
    seen.expect(client.post("/v2/models/digits-batchnorm/infer", {"inputs": [tensor]}))


def sessions(client: Client, random: Random, seen: Outcome) -> None:
    name = f"soak-{random.randrange(NAMES)}"
    path = f"/v1/models/digits-rnn/sessions/{name}"
    steps = random.randrange(1, 6)
    for step in range(steps):
        body = {"instances": [ROW] * random.randrange(1, 4)}
        keyed = {"key": f"{random.getrandbits(64):x}"} if random.random() < 0.2 else {}
        response = seen.expect(post(client, f"{path}:predict", body, **keyed), HTTPStatus.OK, *_GONE)
        if response.status in _GONE:
            ttl = random.choice((1, 2, 3))
            seen.expect(client.post("/v1/models/digits-rnn/sessions", {"session": name, "ttl": ttl}), 201)
        elif keyed:
            seen.expect(post(client, f"{path}:predict", body, **keyed), HTTPStatus.OK, *_GONE)
        if step == steps - 1 and random.random() < 0.2:
            seen.expect(client.request("GET", f"{path}/state"), HTTPStatus.OK, *_GONE)
            seen.expect(client.delete(path), HTTPStatus.NO_CONTENT, *_GONE)


def many(client: Client, random: Random, seen: Outcome) -> None:
    names = [f"many-{number}" for number in random.sample(range(NAMES), 16)]
    path = "/v1/models/digits-rnn/sessions"
    entries = seen.expect(client.post(f"{path}:predict", {"sessions": {name: [ROW] for name in names}})).json
    for name, entry in entries["sessions"].items():
        if entry.get("status") in _GONE:
            seen.expect(client.post(path, {"session": name, "ttl": random.choice((1, 2, 3))}), 201)


def totals(client: Client, random: Random, seen: Outcome) -> None:
    path = f"/v1/accumulators/soak-{random.randrange(NAMES)}"
    # One that has expired was deleted first: its name is taken for a day.
    response = seen.expect(client.post(path, {"values": [1, 2.5]}), HTTPStatus.OK, HTTPStatus.GONE)
    if response.status == HTTPStatus.GONE:
        seen.expect(client.delete(path), HTTPStatus.NO_CONTENT, *_GONE)


def streams(client: Client, random: Random, seen: Outcome) -> None:
    path = f"/v1/models/digits-rnn/sessions/stream-{random.randrange(NAMES)}"
    client.delete(path)
    seen.expect(client.post("/v1/models/digits-rnn/sessions", {"session": path.rpartition("/")[2], "ttl": 30}), 201)
    with Stream(client.port, path) as stream:
        stream.open()
        for step in range(random.randrange(1, 40)):
            stream.send(json.dumps({"instances": [ROW]}).encode() + b"\n")
            seen.requests += 1
            if (answer := stream.line()) is None or answer.get("step") != step + 1:
                seen.errors.append(f"a line of a stream: {answer}")
                return
    seen.expect(client.delete(path), HTTPStatus.NO_CONTENT)


def large(client: Client, random: Random, seen: Outcome) -> None:
    rows = 2000
    body = json.dumps({"instances": [[random.randrange(17)] * 64] * rows}).encode()
    for _ in range(3):
        seen.expect(client.post("/v1/models/digits-batchnorm:predict", body))
        time.sleep(0.5)


LOADS: dict[str, Turn] = {
    "predictions": predictions, "sessions": sessions, "many": many, "totals": totals, "streams": streams,
    "large": large,
}  # fmt: skip


def load(name: str, port: int, seed: int, end: float, outcomes: "Queue[Outcome]") -> None:
    """Repeat a load until the end."""
    seen, random, turn = Outcome(name), Random(seed), LOADS[name]
    try:
        while time.time() < end:
            # A new connection now and then: another worker may take it.
            with Client(port) as client:
                for _ in range(50):
                    start = time.monotonic()
                    turn(client, random, seen)
                    seen.slowest = max(seen.slowest, time.monotonic() - start)
                    time.sleep(PAUSE)
                    if time.time() >= end:
                        break
    except Exception as error:  # noqa: BLE001 - whatever it is, the run must not pass
        seen.errors.append(f"{type(error).__name__}: {error}")
    outcomes.put(seen)


def probe(port: int, end: float, outcomes: "Queue[Outcome]") -> None:
    """Ask whether the service is alive, a hundred times a second."""
    seen = Outcome("live")
    waits: list[float] = []
    try:
        while time.time() < end:
            with Client(port) as client:
                client.get("/v2/health/live")  # connects
                for _ in range(100):
                    start = time.monotonic()
                    seen.expect(client.get("/v2/health/live"))
                    waits.append(time.monotonic() - start)
                    time.sleep(0.01)
    except Exception as error:  # noqa: BLE001
        seen.errors.append(f"{type(error).__name__}: {error}")
    seen.slowest = max(waits, default=0.0)
    outcomes.put(seen)
