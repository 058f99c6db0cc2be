"""`make test-chaos`: SECONDS (120) of faults; SEED makes a schedule happen again."""

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

from tests.chaos.clients import Stepper, Tally
from tests.chaos.durability import PROMISES, try_policy
from tests.chaos.faults import Cluster, Failovers, Fault, OneServer, play, schedule
from tests.chaos.sessions import KINDS, Session, judge
from tests.support.paths import CHECKPOINTS
from tests.support.redis_server import RedisServer
from tests.support.repository import write_lstm
from tests.support.service import Service
from tests.support.topologies import RedisCluster, Sentinels
from tests.support.waiting import eventually

CLIENTS = 12
OWN = 2
"""Sessions of each kind that a client has to itself."""
SHARED = 2
"""Sessions of each kind that all clients step."""
WORKERS = 3

Servers = TypeVar("Servers", Sentinels, RedisCluster)


def main() -> int:
    """Run all phases and say what came of them; 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SECONDS") or 120))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or secrets.randbelow(10**6)))
    asked = parser.parse_args()
    print(f"chaos for {asked.seconds:.0f} s; SEED={asked.seed} makes this schedule happen again", flush=True)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="carryover-chaos-") as folder:
        repository = _repository(Path(folder) / "models")
        _one_server(Path(folder), repository, asked.seed, asked.seconds * 0.6, tally)
        rest = repository, asked.seed, asked.seconds * 0.2, tally
        _several("sentinels", Sentinels(), Failovers, Path(folder) / "two", *rest)
        _several("cluster", RedisCluster(), Cluster, Path(folder) / "three", *rest)
    _report(tally)
    return 1 if tally.wrong or tally.counts["lost steps"] or tally.counts["doubled steps"] else 0


def _repository(folder: Path) -> Path:
    folder.mkdir()
    for name in ("digits-rnn", "accumulator"):
        (folder / name).symlink_to(CHECKPOINTS / name)
    write_lstm(folder)
    return folder


def _one_server(folder: Path, repository: Path, seed: int, seconds: float, tally: Tally) -> None:
    server = RedisServer().start()
    service = Service(folder / "one", MODEL_REPOSITORY=repository, WORKERS=WORKERS, REDIS_URL=server.url)
    try:
        service.start()
        faults = OneServer(service, server)
        _phase("one server", service, schedule(seed, "one", seconds, faults.RATES), faults.do, seconds, seed, tally)
        print("appendfsync: Redis is killed under load", flush=True)
        for policy in PROMISES:
            try_policy(service, server, policy, 3, Random(f"{seed} {policy}"), tally)
    finally:
        service.end()
        server.end()


def _several(
    name: str,
    servers: Servers,
    faults_of: Callable[[Service, Servers], Failovers | Cluster],
    folder: Path,
    repository: Path,
    seed: int,
    seconds: float,
    tally: Tally,
) -> None:
    """Run the phase of a topology of several servers; the schedule is named after the service's folder."""
    service = Service(folder, MODEL_REPOSITORY=repository, WORKERS=WORKERS, REDIS_URL=servers.url)
    try:
        servers.start()
        service.start()
        faults = faults_of(service, servers)
        _phase(name, service, schedule(seed, folder.name, seconds, faults.RATES), faults.do, seconds, seed, tally)
    finally:
        service.end()
        servers.end()


def _phase(
    name: str,
    service: Service,
    faults: list[Fault],
    do: Callable[[Fault], None],
    seconds: float,
    seed: int,
    tally: Tally,
) -> None:
    """Step sessions while faults happen, then compare each with a plain run of its acknowledged steps."""
    print(f"{name}: {len(faults)} faults in {seconds:.0f} s", flush=True)
    shared = [Session(kind, f"shared-{i}") for kind in KINDS for i in range(SHARED)]
    own = [[Session(kind, f"own-{c}-{i}") for kind in KINDS for i in range(OWN)] for c in range(CLIENTS)]
    sessions = [*shared, *(session for some in own for session in some)]
    with service.client() as client:
        for session in sessions:
            if session.kind.model != "accumulator":
                client.create(session.kind.model, session.name)
    clients = [Stepper(service.port, c, seed, [*own[c], *shared], tally) for c in range(CLIENTS)]
    for stepper in clients:
        stepper.start()
    before, start = tally.counts["steps"], time.monotonic()
    try:
        play(faults, do, seconds, tally)
    finally:
        for stepper in clients:
            stepper.finish()
        for stepper in clients:
            stepper.join()
    steps, took = tally.counts["steps"] - before, time.monotonic() - start
    print(f"{name}: {steps} steps acknowledged in {took:.0f} s; comparing {len(sessions)} sessions", flush=True)
    eventually("readiness", service.ready)
    with service.client() as client:
        for session in sessions:
            verdict = judge(client, session)
            tally.count("sessions compared")
            tally.count("lost steps", verdict.lost)
            tally.count("doubled steps", verdict.doubled)
            for sentence in verdict.sentences:
                tally.complain(sentence)
    unexpected = [line for line in service.err().splitlines() if "unexpected error" in line]
    if unexpected:
        tally.complain(f"{name}: the service logged {len(unexpected)} unexpected errors, such as: {unexpected[0]}")


def _report(tally: Tally) -> None:
    first = ("steps", "sessions compared", "retries", "replays", "conflicts (412)", "connections lost")
    last = ("lost steps", "doubled steps")
    between = sorted(name for name in tally.counts if name not in first + last)
    print()
    for name in (*first, *between, *last):
        print(f"{tally.counts[name]:>10,}  {name}")
    print()
    for policy, promise in PROMISES.items():
        print(f"appendfsync {policy}: {promise}")
    print("(a power failure cannot be tried on one machine)")
    for sentence in tally.wrong:
        print(f"WRONG: {sentence}")


if __name__ == "__main__":
    sys.exit(main())
