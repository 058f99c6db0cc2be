"""What is to be reached, and whether it was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.live import CONNECTIONS, FEW, Live
from bench.results import Cell, cpu, p50, rate
from bench.sessions import Memory

# The least that requests/s may be, as a share of the baseline's at the same number of connections.
LEAST_RATE = {("predict", 32): 0.75, ("predict", 128): 0.75, ("session", 32): 0.5, ("session", 128): 0.6}
# The same, as a multiple of what Triton does with the same module.
LEAST_OF_TRITON = {
    ("predict", 1): 1.1, ("predict", 32): 1.1, ("predict", 128): 1.1,
    ("infer-json", 32): 1.0, ("infer-json", 128): 1.0,
    ("session", 1): 0.85, ("session", 32): 1.05, ("session", 128): 1.25,
    ("own", 1): 0.85, ("own", 32): 1.05, ("own", 128): 1.25,
}  # fmt: skip
LEAST_STEPS = {("pipelined", 1): 20_000, ("many", 32): 60_000}
MOST_P50 = {("session", 1): 2.5}
MOST_KEYED = 1.15
LEAST_MANY = 8.0
MOST_LIVE = 1.05
MOST_OVERHEAD = 120


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is to be at least, or at most, `bound`."""

    what: str
    value: float
    bound: float
    at_least: bool

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        word = "at least" if self.at_least else "at most"
        verdict = "reached" if self.reached else "NOT REACHED"
        return f"{verdict:<12} {self.what}: {self.value:.4g}, to be {word} {self.bound:g}"


def targets(cells: Sequence[Cell], memory: Memory, live: Live | None) -> Iterator[Target]:
    """Yield the targets that these measurements have something to say about."""
    found = {(cell.row.name, cell.connections): cell for cell in cells}
    for place, cell in found.items():
        where = f"{cell.row.title} at {cell.where}"
        if place in LEAST_RATE:
            yield Target(
                f"{where}, requests/s as a share of the baseline's", cell.ratio(rate), LEAST_RATE[place], at_least=True
            )
        if place in LEAST_OF_TRITON and cell.triton is not None:
            what = f"{where}, requests/s as a multiple of Triton's"
            yield Target(what, cell.ratio_to(cell.triton, rate), LEAST_OF_TRITON[place], at_least=True)
        if place in LEAST_STEPS:
            yield Target(f"{where}, steps/s", cell.steps, LEAST_STEPS[place], at_least=True)
        if place in MOST_P50:
            yield Target(f"{where}, p50 over the baseline's", cell.ratio(p50), MOST_P50[place], at_least=False)
        if cell.row.keyed and (plain := cell.beside):
            what = f"CPU of {cell.row.title} over that of one without at {cell.where}"
            yield Target(what, cell.ratio_to(plain, cpu), MOST_KEYED, at_least=False)
            what = f"requests/s of {plain.row.title} over those with a key at {cell.where}"
            yield Target(what, plain.ratio_to(cell, rate), MOST_KEYED, at_least=False)
    for (name, connections), cell in found.items():
        single = found.get(("session", connections))
        if name == "many" and single is not None:
            what = f"steps/s of {cell.row.title} over single calls at {cell.where}"
            yield Target(what, cell.steps / single.steps, LEAST_MANY, at_least=True)
    if live is not None:
        what = f"CPU of a step of {live.sessions:,} sessions over that of {FEW:,} of them, {CONNECTIONS} connections"
        yield Target(what, live.ratio(cpu), MOST_LIVE, at_least=False)
    what = "bytes of memory of a stored RNN session above its state and its key's name"
    yield Target(what, memory.overhead, MOST_OVERHEAD, at_least=False)
