"""The cost of a step with few and with many live sessions in the store: one server for each, measured in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from bench.generator import Generator
from bench.load import Load, Sample
from bench.messages import drawn_connections
from bench.results import Quantity, median_ratio
from bench.rounds import WARM_UP
from bench.rows import SESSION
from bench.server import running
from bench.sessions import fill

FEW = 1000
CONNECTIONS = 32
_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Live:
    """The samples with `FEW` sessions in the store, and those with `sessions`, pair by pair."""

    sessions: int
    few: Sequence[Sample]
    many: Sequence[Sample]

    def ratio(self, quantity: Quantity) -> float:
        """Return the median of the pairs' ratios, many sessions to few."""
        return median_ratio(quantity, self.many, self.few)


def measure(sessions: int, generator: Generator, seconds: float) -> Live:
    """Step sessions drawn at random, for so many seconds a round."""
    sizes = (FEW, sessions)
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    with running() as first, running() as second:
        servers = (first, second)
        for server, size in tqdm(
            list(zip(servers, sizes, strict=True)), desc="filling the stores", unit="store", disable=None
        ):
            fill(server, size)
        for number in tqdm(range(-1, _ROUNDS), desc="live sessions", unit="round", disable=None):
            # Each is the first in every other round.
            for index in (0, 1) if number % 2 else (1, 0):
                server = servers[index]
                load = drawn_connections(SESSION, CONNECTIONS, sizes[index])
                taken = generator.run(Load(server.port, server.pids(), load, WARM_UP, seconds))
                if number >= 0:  # the one before is for the caches
                    samples[index].append(taken)
    return Live(sessions, *samples)
