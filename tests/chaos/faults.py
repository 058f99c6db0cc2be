"""What is done to the service and its Redis, and when: all of it follows from the seed."""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import psutil

from tests.chaos.clients import Tally
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.topologies import RedisCluster, Sentinels
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Fault:
    """Something that happens: `at` seconds after the start; `draw` in [0, 1) decides how, or to whom."""

    at: float
    kind: str
    draw: float


def schedule(seed: int, phase: str, seconds: float, rates: Mapping[str, float]) -> list[Fault]:
    """Return the faults of a phase; `rates` are the mean seconds between two of a kind."""
    faults = []
    for kind, mean in rates.items():
        rng = Random(f"{seed} {phase} {kind}")
        at = rng.uniform(0.5, 1.0) * min(mean, seconds / 2)
        while at < seconds:
            faults.append(Fault(at, kind, rng.random()))
            at += 0.2 * mean + rng.expovariate(1 / (0.8 * mean))
    return sorted(faults, key=lambda fault: fault.at)


class OneServer:
    """Faults of a service on one Redis."""

    RATES: Mapping[str, float] = {
        "worker killed (kill -9)": 4,
        "worker stopped for a while": 17,
        "workers reloaded (SIGHUP)": 13,
        "Redis killed (kill -9) and restarted": 8,
        "Redis stopped for a while": 19,
        "connections to Redis cut": 2,
        "script cache flushed": 11,
    }

    def __init__(self, service: Service, server: RedisServer) -> None:
        self._service = service
        self._server = server
        self._deeds: dict[str, Callable[[float], object]] = {
            "worker killed (kill -9)": self._kill_worker,
            "worker stopped for a while": self._stop_worker,
            "workers reloaded (SIGHUP)": lambda _: self._service.process.send_signal(signal.SIGHUP),
            "Redis killed (kill -9) and restarted": self._kill_redis,
            "Redis stopped for a while": self._stop_redis,
            "connections to Redis cut": lambda _: self._server.redis.client_kill_filter(_type="normal"),
            "script cache flushed": lambda _: self._server.redis.script_flush(),
        }

    def do(self, fault: Fault) -> None:
        """Make it happen; returns when what was stopped or killed is there again, or will be by itself."""
        self._deeds[fault.kind](fault.draw)

    def _worker(self, draw: float) -> psutil.Process:
        workers = eventually("a worker", self._service.workers)
        return workers[int(draw * len(workers))]

    def _kill_worker(self, draw: float) -> None:
        with suppress(psutil.NoSuchProcess):  # it ended by itself, after a reload
            self._worker(draw).kill()

    def _stop_worker(self, draw: float) -> None:
        """Up to 7 s: longer than a lock is held, and its commit may come when others have carried it out."""
        worker = self._worker(draw * 2 % 1)
        try:
            worker.suspend()
            time.sleep(0.5 + 6.5 * draw)
            worker.resume()
        except psutil.NoSuchProcess:
            pass

    def _kill_redis(self, draw: float) -> None:
        self._server.kill()
        time.sleep(draw)
        self._server.start()

    def _stop_redis(self, draw: float) -> None:
        self._server.signal(signal.SIGSTOP)
        time.sleep(0.2 + 3 * draw)
        self._server.signal(signal.SIGCONT)


AT_ONCE = "master killed (kill -9) at once"
LAGGING = "master killed (kill -9) while its replica lags"
LOSSY: Mapping[str, float] = {AT_ONCE: 9, LAGGING: 9, "worker killed (kill -9)": 11}
"""Failovers to replicas that nobody has brought up to date."""


def _lag(fault: Fault) -> float | None:
    """For how many seconds the replica gets nothing before its master is killed; None if it has everything."""
    return {AT_ONCE: 0.0, LAGGING: 0.1 + 0.4 * fault.draw}.get(fault.kind)


class Failovers:
    """Faults of a service on sentinels."""

    RATES: Mapping[str, float] = {
        "failover by the sentinels": 9,
        "worker killed (kill -9)": 5,
    }

    def __init__(self, service: Service, sentinels: Sentinels) -> None:
        self._workers = OneServer(service, sentinels.servers[0])
        self._sentinels = sentinels

    def do(self, fault: Fault) -> None:
        """Make it happen."""
        if fault.kind in ("failover by the sentinels", AT_ONCE, LAGGING):
            self._sentinels.revive(self._sentinels.failover(_lag(fault)))
        else:
            self._workers.do(fault)


class Cluster:
    """Faults of a service on a cluster."""

    RATES: Mapping[str, float] = {
        "master of a cluster killed (kill -9)": 8,
        "handover in a cluster": 6,
        "worker killed (kill -9)": 5,
    }

    def __init__(self, service: Service, cluster: RedisCluster) -> None:
        self._workers = OneServer(service, cluster.servers[0])
        self._cluster = cluster

    def do(self, fault: Fault) -> None:
        """Make it happen."""
        masters = self._cluster.masters()
        master = masters[int(fault.draw * len(masters))]
        if fault.kind == "handover in a cluster":
            self._cluster.hand_over(master)
        elif fault.kind in ("master of a cluster killed (kill -9)", AT_ONCE, LAGGING):
            self._cluster.kill(master, _lag(fault))
            self._cluster.revive(master)
        else:
            self._workers.do(fault)


def play(faults: list[Fault], do: Callable[[Fault], None], seconds: float, tally: Tally) -> None:
    """Make faults happen, each at its time or as soon after as the one before is over; returns after `seconds`."""
    start = time.monotonic()
    for fault in faults:
        wait = start + fault.at - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        if time.monotonic() - start > seconds + 5:
            break
        tally.count(f"fault: {fault.kind}")
        do(fault)
    time.sleep(max(0.0, start + seconds - time.monotonic()))
