"""What was measured: of each row and number of connections one cell, with a sample a round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.load import Sample
from bench.rows import Row

Quantity = Callable[[Sample], float]


@dataclass(slots=True)
class Cell:
    """The samples of a row at a number of connections, and from the same rounds those of the baseline and `beside`.

    `beside` is the cell of the row that this one is held against, `triton` that of Triton's, where it was measured.
    """

    row: Row
    connections: int
    samples: list[Sample] = field(default_factory=list)
    baselines: list[Sample] = field(default_factory=list)
    beside: "Cell | None" = None
    triton: "Cell | None" = None

    @property
    def where(self) -> str:
        """The number of connections in words."""
        return f"{self.connections} connection{'' if self.connections == 1 else 's'}"

    def middle(self, quantity: Quantity) -> float:
        """Return the median over the rounds."""
        return median(map(quantity, self.samples))

    def ratio(self, quantity: Quantity) -> float:
        """Return the median of the rounds' ratios to the baseline."""
        return median_ratio(quantity, self.samples, self.baselines)

    def ratio_to(self, other: "Cell", quantity: Quantity) -> float:
        """Return the median of the rounds' ratios to another cell."""
        return median_ratio(quantity, self.samples, other.samples)

    @property
    def steps(self) -> float:
        """Steps a second; 0 for a row that steps no session."""
        return self.middle(rate) * self.row.sessions


def median_ratio(quantity: Quantity, samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """Return the median of the pairs' ratios: what slows the machine for a while slows both of a pair."""
    return median(quantity(sample) / quantity(other) for sample, other in zip(samples, others, strict=True))


def rate(sample: Sample) -> float:
    """Requests a second."""
    return sample.rate


def p50(sample: Sample) -> float:
    """Median time to a response, seconds."""
    return sample.p50


def p99(sample: Sample) -> float:
    """Time that 99 of 100 responses keep within, seconds."""
    return sample.p99


def cpu(sample: Sample) -> float:
    """CPU of all server processes, seconds a request."""
    return sample.cpu


def others(sample: Sample) -> float:
    """How many CPUs the rest of the machine kept busy."""
    return sample.others


def own_cpu(sample: Sample) -> float:
    """CPU of the load generator, seconds a request."""
    return sample.own_cpu
