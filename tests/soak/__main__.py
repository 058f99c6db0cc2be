"""`make soak`: SECONDS (600) of mixed load with sessions that expire; memory and file descriptors must stay flat.

torch keeps what it has prepared for each shape, up to a number, which is lowered here, so that it is reached soon.
After a warm-up, the smallest memory of the workers (resident: what they share counts, so that a shared page that one of
them writes to counts as before) and of Valkey in each fifth of the run is compared: it must not grow by more than 2 %,
and 128 KiB, from the first to the last. When the load has ended, the workers hold no more file descriptors and
greenlets than before it. No request may fail, and `/v2/health/live` may never take longer than 100 ms.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import psutil

from tests.soak.load import LOADS, Outcome, load, probe
from tests.support.paths import CHECKPOINTS
from tests.support.redis_server import RedisServer
from tests.support.repository import spec, write_model
from tests.support.service import Service
from tests.support.sources.counted import Greenlets
from tests.support.waiting import eventually

WARM_UP = 0.4
"""The share of the time after which each worker has had the largest requests: the C library keeps their memory."""
GROWTH = 0.02
SLACK = 128 * 1024
"""Bytes that are no growth: of a small Valkey, what its tables and buffers vary by is more than that share."""
LIVE = 0.1
"""Seconds that `live` may take."""
INTERVAL = 1.0
FIFTHS = 5
SETTINGS = {"SESSION_TTL": 5, "IDEMPOTENCY_TTL": 5, "MAX_STREAM_IDLE": 5}


@dataclass(frozen=True)
class Sample:
    """What the processes held at one time, in bytes."""

    workers: int
    valkey: int


def sample(workers: Sequence[psutil.Process], server: RedisServer) -> Sample:
    used: Any = server.redis.info("memory")
    # Of so small a whole, the buffers of one connection more would be a per cent.
    held = used["used_memory"] - used["mem_clients_normal"]
    return Sample(sum(worker.memory_info().rss for worker in workers), held)


def growth(values: Sequence[int]) -> tuple[int, float]:
    """By how much the least of the last fifth is above the least of the first, in bytes and as a share."""
    fifth = max(1, len(values) // FIFTHS)
    first, last = min(values[:fifth]), min(values[-fifth:])
    return last - first, last / first - 1


def models(folder: Path) -> Path:
    """Write the models that come with the service, and one that counts greenlets."""
    shutil.copytree(CHECKPOINTS, folder / "models")
    write_model(folder / "models", "greenlets", Greenlets(), [spec((-1,))])
    return folder / "models"


def descriptors(workers: Sequence[psutil.Process]) -> int:
    return sum(worker.num_fds() for worker in workers)


def greenlets(service: Service) -> int:
    """How many greenlets the workers have, with a connection to each."""
    with service.one_client_a_worker() as clients:
        return sum(int(client.predict("greenlets", [0])[0]) for client in clients)


def soak(service: Service, server: RedisServer, seconds: float) -> list[str]:
    """Run the load, and return what is wrong."""
    context = get_context("spawn")
    outcomes: Queue[Outcome] = context.Queue()
    workers = service.workers()
    before = descriptors(workers), greenlets(service)
    end = time.time() + seconds
    processes = [
        context.Process(target=load, args=(name, service.port, number, end, outcomes))
        for number, name in enumerate(LOADS)
    ]
    processes.append(context.Process(target=probe, args=(service.port, end, outcomes)))
    for process in processes:
        process.start()
    samples = []
    while time.time() < end:
        time.sleep(INTERVAL)  # the measured interval
        if time.time() > end - seconds * (1 - WARM_UP):
            samples.append(sample(workers, server))
    found = [outcomes.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return judge(found, samples) + rest(service, workers, before)


def judge(found: Sequence[Outcome], samples: Sequence[Sample]) -> list[str]:
    """Print the figures, and return what is wrong with them."""
    wrong = [f"{one.name}: {error}" for one in found for error in one.errors]
    for one in sorted(found, key=lambda one: one.name):
        print(f"{one.requests:>10,}  {one.name}; slowest {one.slowest * 1000:.0f} ms")
        if one.name == "live" and one.slowest > LIVE:
            wrong.append(f"live took {one.slowest * 1000:.0f} ms; expected at most {LIVE * 1000:.0f}")
    for what in ("workers", "valkey"):
        values = [getattr(one, what) for one in samples]
        size, grown = growth(values)
        series = " ".join(f"{value / 2**20:.1f}" for value in values[:: max(1, len(values) // 20)])
        print(f"{what}: growth {grown:+.2%}; MiB: {series}")
        if grown > GROWTH and size > SLACK:
            wrong.append(f"the memory of {what} has grown by {grown:.2%}; expected at most {GROWTH:.0%}")
    return wrong


def rest(service: Service, workers: Sequence[psutil.Process], before: tuple[int, int]) -> list[str]:
    """Return what is wrong once the load has ended."""
    wrong = []
    if [worker.pid for worker in workers] != [worker.pid for worker in service.workers()]:
        wrong.append("a worker was replaced")

    def as_before() -> bool:
        service.ready()  # a connection to Redis that is used no more is closed when another one is used
        return descriptors(workers) <= before[0] + 2 * len(workers) and greenlets(service) <= before[1] + len(workers)

    try:
        eventually("no more file descriptors and greenlets", as_before)
    except AssertionError as error:
        wrong.append(str(error))
    print(f"file descriptors: {before[0]} before, {descriptors(workers)} after")
    print(f"greenlets: {before[1]} before, {greenlets(service)} after")
    return wrong + [f"log: {line}" for line in service.err().splitlines() if "[ERROR]" in line or "Traceback" in line]


def main() -> int:
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "32"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SECONDS", "600")))
    seconds = parser.parse_args().seconds
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = RedisServer().start()
        stack.callback(server.end)
        server.redis.config_set("appendfsync", "everysec")
        service = Service(Path(folder), REDIS_URL=server.url, MODEL_REPOSITORY=models(Path(folder)), **SETTINGS)
        stack.callback(service.end)
        wrong = soak(service.start(), server, seconds)
    for one in wrong[:50]:
        print(f"WRONG: {one}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
