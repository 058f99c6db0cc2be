"""The cost of a step of sessions that are few, and of as many as the store holds, measured in turn on one server.

Two servers would differ by more than that: by how the requests of each happen to gather in batches.
"""

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
    """The samples of `FEW` of the `sessions` in the store, and those of all of them, pair by pair."""

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
    with running() as server:
        fill(server, sessions)
        for number in tqdm(range(-1, _ROUNDS), desc="live sessions", unit="round", disable=None):
            # Each is the first in every other round.
            for index in (0, 1) if number % 2 else (1, 0):
                load = drawn_connections(SESSION, CONNECTIONS, sizes[index])
                taken = generator.run(Load(server.port, server.pids(), load, WARM_UP, seconds))
                if number >= 0:  # the one before is for the caches
                    samples[index].append(taken)
    return Live(sessions, *samples)
