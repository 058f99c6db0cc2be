"""`make test-chaos`: SECONDS (120) of faults in all PHASES, or some; SEED makes a schedule happen again."""

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.clients import Stepper, Tally
from tests.chaos.durability import PROMISES, try_policy
from tests.chaos.faults import LOSSY, Cluster, Failovers, Fault, OneServer, play, schedule
from tests.chaos.sessions import KINDS, Session, judge
from tests.support.metrics import ROUND_TRIPS, Scrape
from tests.support.paths import CHECKPOINTS
from tests.support.redis_server import RedisServer
from tests.support.repository import write_lstm
from tests.support.service import Service
from tests.support.topologies import RedisCluster, Sentinels
from tests.support.waiting import eventually

CLIENTS = 12
OWN = 48
"""Sessions of each kind that a client has to itself."""
PLAIN = 10
"""Sessions of each kind that a client steps without a key."""
SHARED = 2
"""Sessions of each kind that all clients step."""
WORKERS = 3

UNCONFIRMED = "acknowledged steps lost in failovers, as REDIS_MIN_REPLICAS=0 permits"


@dataclass(frozen=True)
class Several:
    """A phase on several servers, which lasts a `share` of the time.

    `confirmed` is REDIS_MIN_REPLICAS. Where `loses`, it is counted what is lost, and nothing else is an error.
    """

    name: str
    share: float
    servers: Callable[[], Any]
    faults: Callable[[Service, Any], Failovers | Cluster]
    rates: Mapping[str, float]
    confirmed: int = 0
    loses: bool = False


def _quick_sentinels() -> Sentinels:
    return Sentinels(down_after=400, timeout=500)


ONE = "one-server"
PHASES = (
    Several("sentinels", 0.12, Sentinels, Failovers, Failovers.RATES),
    Several("cluster", 0.12, RedisCluster, Cluster, Cluster.RATES),
    Several("sentinels-confirmed", 0.16, _quick_sentinels, Failovers, LOSSY, confirmed=1),
    Several("cluster-confirmed", 0.16, RedisCluster, Cluster, LOSSY, confirmed=1),
    Several("sentinels-unconfirmed", 0.07, _quick_sentinels, Failovers, LOSSY, loses=True),
    Several("cluster-unconfirmed", 0.07, RedisCluster, Cluster, LOSSY, loses=True),
)
SHARE = 0.3
"""Of the time, for the phase with one server."""


def main() -> int:
    """Run all phases and say what came of them; 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SECONDS") or 120))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or secrets.randbelow(10**6)))
    names = (ONE, *(phase.name for phase in PHASES))
    parser.add_argument("--phases", nargs="*", choices=names, default=(os.environ.get("PHASES") or "").split() or names)
    asked = parser.parse_args()
    shares = {ONE: SHARE} | {phase.name: phase.share for phase in PHASES}
    unit = asked.seconds / sum(shares[name] for name in asked.phases)
    print(f"chaos for {asked.seconds:.0f} s; SEED={asked.seed} makes this schedule happen again", flush=True)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="carryover-chaos-") as folder:
        repository = _repository(Path(folder) / "models")
        if ONE in asked.phases:
            _one_server(Path(folder), repository, asked.seed, unit * SHARE, tally)
        for phase in PHASES:
            if phase.name in asked.phases:
                _several(phase, Path(folder), repository, asked.seed, unit * phase.share, tally)
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


def _several(phase: Several, folder: Path, repository: Path, seed: int, seconds: float, tally: Tally) -> None:
    """Run a phase on several servers; what one that may lose steps has lost is counted apart."""
    servers = phase.servers()
    service = Service(
        folder / phase.name,
        MODEL_REPOSITORY=repository,
        WORKERS=WORKERS,
        REDIS_URL=servers.url,
        REDIS_MIN_REPLICAS=phase.confirmed,
    )
    own = Tally() if phase.loses else tally
    lost = tally.counts["lost steps"]
    try:
        servers.start()
        service.start()
        do = phase.faults(service, servers).do
        faults = schedule(seed, phase.name, seconds, phase.rates)
        _phase(phase.name, service, faults, do, seconds, seed, own)
    finally:
        service.end()
        servers.end()
    if phase.loses:
        tally.count(UNCONFIRMED, own.counts["lost steps"])
        tally.count("steps acknowledged with REDIS_MIN_REPLICAS=0", own.counts["steps"])
    else:
        print(f"{phase.name}: {tally.counts['lost steps'] - lost} of them lost", flush=True)


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
    plain = [[Session(kind, f"plain-{c}-{i}") for i in range(PLAIN) for kind in KINDS] for c in range(CLIENTS)]
    sessions = [*shared, *(session for some in (*own, *plain) for session in some)]
    with service.client() as client:
        for session in sessions:
            if session.kind.model != "accumulator":
                client.create(session.kind.model, session.name)
    clients = [Stepper(service.port, c, seed, [*own[c], *shared], plain[c], tally) for c in range(CLIENTS)]
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
        scrape = Scrape(client)
        loads, commits = (scrape.value(ROUND_TRIPS, operation=operation) for operation in ("load", "commit"))
        tally.count("batches that were not read", int(commits - loads))
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
    first = ("steps", "sessions compared", "conflicts (412)")
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
