"""What each `appendfsync` promises when Redis is killed: as far as one machine can show it.

`kill -9` takes the process and leaves the machine: what Redis has written to its append-only file is in the kernel's
memory and will be found again, whether fsync was called or not. Only a machine that loses power shows what fsync is
for; that cannot be tried here.
"""

import json
import threading
import time
from collections.abc import Sequence
from http.client import HTTPException
from random import Random

from tests.chaos.clients import Tally
from tests.support.client import JSON, Client
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

CLIENTS = 8
POSTPONED = 2.0
"""Seconds for which `everysec` may put off a write while an fsync is going on."""

PROMISES = {
    "always": "written and synced before the response: nothing is lost, not by a kill, not by a power failure",
    "everysec": "written before the response unless an fsync is going on: a kill or power failure may cost two seconds",
    "no": "written before the response, synced by the kernel: a kill costs nothing, a power failure half a minute",
}


class _Adder(threading.Thread):
    """Adds ones to an accumulator until Redis is killed; knows when each was acknowledged."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__()
        self.address = f"/v1/accumulators/{name}"
        self.acknowledged: list[float] = []
        self.started = threading.Event()
        self._port = port

    def run(self) -> None:
        with Client(self._port, 4.0) as client:
            try:
                while client.request("POST", self.address, _ONE, {"Content-Type": JSON}).status == 200:
                    self.acknowledged.append(time.monotonic())
                    self.started.set()
            except (OSError, HTTPException):
                return


_ONE = json.dumps({"values": [1]}).encode()


def try_policy(service: Service, server: RedisServer, policy: str, rounds: int, rng: Random, tally: Tally) -> None:
    """Kill Redis under load, again and again, and complain where more is lost than the policy allows."""
    for number in range(rounds):
        server.redis.config_set("appendfsync", policy)
        adders = [_Adder(service.port, f"{policy}-{number}-{i}") for i in range(CLIENTS)]
        for adder in adders:
            adder.start()
        for adder in adders:
            assert adder.started.wait(PATIENCE)
        time.sleep(rng.uniform(0.2, 1.5))
        killed = time.monotonic()
        server.kill()
        for adder in adders:
            adder.join()
        server.start()
        eventually("readiness", service.ready)
        lost = _compare(service, adders, killed - (POSTPONED + 0.5 if policy == "everysec" else -60.0), policy, tally)
        tally.count(f"appendfsync {policy}: steps acknowledged", sum(len(adder.acknowledged) for adder in adders))
        tally.count(f"appendfsync {policy}: of them lost by kill -9", lost)
    server.redis.config_set("appendfsync", "always")


def _compare(service: Service, adders: Sequence[_Adder], safe: float, policy: str, tally: Tally) -> int:
    """Return how many acknowledged steps are missing; of those acknowledged before `safe` none may be."""
    lost = 0
    with service.client() as client:
        for adder in adders:
            answer = client.get(adder.address)
            step = 0 if answer.status == 404 else answer.expect()["step"]
            acknowledged = len(adder.acknowledged)
            promised = sum(moment <= safe for moment in adder.acknowledged)
            lost += max(0, acknowledged - step)
            # One more may have been carried out: the one that was under way.
            if not promised <= step <= acknowledged + 1:
                tally.complain(
                    f"appendfsync {policy}: {adder.address} is at step {step}; {acknowledged} were acknowledged, "
                    f"{promised} of them for good"
                )
    return lost
