"""`python -m bench.scaling`: what a step costs with more models, workers and replicas, and on a Redis Cluster.

All services run at once and are measured in turn. The table has the least CPU of several rounds, as other programs only
ever add to it, and the median of the rounds' ratios: compare only what was measured together.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tqdm import tqdm

from bench.generator import Generator
from bench.load import Connection, Load, Sample
from bench.messages import Repeated, request, session_name
from bench.results import cpu, median_ratio
from bench.rounds import WARM_UP
from bench.rows import RNN, SESSION
from bench.server import ServerError
from tests.support.client import JSON
from tests.support.paths import CHECKPOINTS, GUNICORN
from tests.support.redis_server import RedisServer, free_port, servers_on
from tests.support.service import Service
from tests.support.topologies import RedisCluster
from tests.support.waiting import eventually

SESSIONS = 1000
_ROUNDS = 5
_LAZY = ("--appendfsync", "everysec")
_WARMING = 16
"""Connections that warm a service up."""
_WARMED = 50
"""Models that are warmed up in a second."""
_LOADING = 600.0
"""Seconds that a thousand models may take to load."""


@dataclass(slots=True)
class Case:
    """Services that share a Redis, whose processes are `redis`; `samples` are of all processes, and of Redis alone."""

    title: str
    services: Sequence[Service]
    redis: Sequence[int]
    models: int = 1
    connections: int = 32
    headers: tuple[tuple[str, str], ...] = ()
    samples: list[tuple[Sample, Sample]] = field(default_factory=list)

    def measure(self, generator: Generator, seconds: float) -> None:
        """Step sessions in random order, over connections that are shared evenly by the services."""
        everything = {pid for service in self.services for pid in service.pids()} | set(self.redis)
        one, other = (
            generator.run(
                Load(self.services[0].port, list(pids), self._connections(self.connections), WARM_UP, seconds)
            )
            for pids in (everything, self.redis)
        )
        self.samples.append((one, other))

    def warm(self, generator: Generator) -> None:
        """Step the sessions of each model a few times in each worker, which measures what its forwards take."""
        load = Load(self.services[0].port, [], self._connections(_WARMING), 0.0, self.models / _WARMED)
        generator.run(load)

    def _connections(self, count: int) -> list[Connection]:
        found = []
        for number in range(count):
            own = [self._step(session) for session in range(number, SESSIONS, count)]
            Random(number).shuffle(own)
            port = self.services[number % len(self.services)].port
            found.append(Connection(Repeated(own), port=port))
        return found

    def _step(self, session: int) -> bytes:
        path = SESSION.path.replace(RNN, _model(session % self.models))
        return request(replace(SESSION, path=path, headers=SESSION.headers + self.headers), [session])

    def create(self) -> None:
        """Create the sessions."""
        with self.services[0].client() as client:
            for number in range(SESSIONS):
                path = f"/v1/models/{_model(number % self.models)}/sessions"
                headers = {"Content-Type": JSON, **dict(self.headers)}
                body = json.dumps({"session": session_name(number)}).encode()
                response = client.request("POST", path, body, headers)
                if response.status != HTTPStatus.CREATED:
                    raise ServerError(f"POST {path}: {response.status}: {response.body[:500]!r}")

    def row(self, first: "Case") -> str:
        """Return its row of the table: steps/s, the CPU of a step, that of Redis, and all of it beside the first's."""
        rate = max(sample.rate for sample, _ in self.samples)
        spent, redis = (1e6 * min(sample.cpu for sample in column) for column in zip(*self.samples, strict=True))
        ratio = median_ratio(cpu, *([sample for sample, _ in case.samples] for case in (self, first)))
        return f"| {self.title} | {self.connections} | {rate:,.0f} | {spent:.0f} | {redis:.1f} | {ratio:.3f} |"


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser("python -m bench.scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement; every case has several")
    parser.add_argument("--models", type=int, default=1000, help="models of the case with many")
    options = parser.parse_args()
    with ExitStack() as stack:
        measure(list(_cases(stack, options.models)), options.seconds)
    return 0


def measure(cases: Sequence[Case], seconds: float) -> None:
    """Measure cases in turn, and print the table."""
    with Generator() as generator:
        for case in cases:
            case.create()
            case.warm(generator)
        for _ in tqdm(range(_ROUNDS), desc="rounds", unit="round", disable=None):
            for case in cases:
                case.measure(generator, seconds)
    print(
        "| service | connections | steps/s | CPU µs a step | of that Redis | × the first one's CPU |",  # noqa: RUF001
        "|---|---|---|---|---|---|",
        *(case.row(cases[0]) for case in cases),
        sep="\n",
    )


def _cases(stack: ExitStack, models: int) -> Iterator[Case]:
    for count in (1, models):  # over one connection: steps of different models are not batched
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-models-")))
        for number in range(count):
            shutil.copytree(CHECKPOINTS / RNN, folder / _model(number))
        service = stack.enter_context(running(MODEL_REPOSITORY=folder))
        yield Case(
            f"{count:,} model{'s' * (count > 1)}, 2 workers", [service], pids_of(service.data), count, connections=1
        )
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-models-")))
    shutil.copytree(CHECKPOINTS / RNN, folder / _model(0))
    for title, replicas, workers in (("1 worker", 1, 1), ("2 replicas of 1 worker", 2, 1)):
        redis = RedisServer(*_LAZY).start()
        stack.callback(redis.end)
        settings: dict[str, str | int | Path] = {"MODEL_REPOSITORY": folder, "REDIS_URL": redis.url, "WORKERS": workers}
        services = [stack.enter_context(running(**settings)) for _ in range(replicas)]
        yield Case(title, services, pids_of(redis.folder))
    cluster = RedisCluster(*_LAZY).start()
    stack.callback(cluster.end)
    service = stack.enter_context(running(MODEL_REPOSITORY=folder, REDIS_URL=cluster.url))
    masters = [pid for server in cluster.masters() for pid in pids_of(server.folder)]
    yield Case("2 workers, Redis Cluster of three masters", [service], masters)


def pids_of(folder: Path) -> list[int]:
    """Return the Redis servers that keep their data in a folder."""
    return [process.pid for process in servers_on(folder)]


def _model(number: int) -> str:
    return f"m{number:04d}"


@contextmanager
def running(*options: str, **settings: str | int | Path) -> Iterator[Service]:
    """Run a service with these settings, and `options` on gunicorn's command line, until the block ends."""
    with TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        service = Service(Path(folder), (GUNICORN, *options), BIND=f"127.0.0.1:{port}", **settings)
        service.port = port
        try:
            service.launch()
            eventually("readiness", service.ready, patience=_LOADING)
            yield service
        finally:
            service.end()


if __name__ == "__main__":
    sys.exit(main())
