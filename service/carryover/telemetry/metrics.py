"""What the service counts and measures beside its models, over all workers; `prometheus` renders it.

Durations are in nanoseconds here. All of it must exist before the workers are forked.
"""

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from carryover.telemetry.slots import Slots

Key = TypeVar("Key", bound=Hashable)

BOUNDS = (
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the buckets of all durations, in seconds."""
BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS)
BUCKETS = len(BOUNDS) + 1
"""The last one has what is over every bound."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many durations were in each bucket, and their sum in nanoseconds."""

    buckets: list[int]
    total: int


class Histograms(Generic[Key]):
    """A histogram of durations for each key, of those that were given at first."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._places = {key: number * (BUCKETS + 1) for number, key in enumerate(keys)}
        self.slots = Slots(len(self._places) * (BUCKETS + 1))

    def observe(self, key: Key, nanoseconds: int) -> None:
        """Count a duration."""
        place, own = self._places[key], self.slots.own
        own[place + bisect_left(BOUNDS_NS, nanoseconds)] += 1
        own[place + BUCKETS] += nanoseconds

    def read(self) -> Iterator[tuple[Key, Distribution]]:
        """Yield each key whose durations were counted, and these, over all workers."""
        totals = self.slots.totals()
        for key, place in self._places.items():
            buckets = totals[place : place + BUCKETS]
            if any(buckets):
                yield key, Distribution(buckets, totals[place + BUCKETS])


class Counts:
    """A counter for each key, of those that were given at first."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._places = {key: place for place, key in enumerate(keys)}
        self.slots = Slots(len(self._places))

    def add(self, key: str, count: int = 1) -> None:
        """Count so many more."""
        self.slots.own[self._places[key]] += count

    def read(self) -> dict[str, int]:
        """Return the counts, over all workers."""
        return dict(zip(self._places, self.slots.totals(), strict=True))


class Gauge:
    """A number that goes up and down, which each worker has its own part of."""

    def __init__(self) -> None:
        self.slots = Slots(1)

    def set(self, value: int) -> None:
        """Set this worker's part."""
        self.slots.own[0] = value

    def read(self) -> int:
        """Return the sum over all workers."""
        return self.slots.totals()[0]


class Metrics:
    """What the service counts and measures.

    `requests` are the HTTP requests, whose keys are for the interface to say; `round_trips` those to Redis, by
    operation; `lag` is how late the event loop was; `ended` are sessions, by how they ended. `triton` says that metrics
    are also shown by Triton's names.
    """

    def __init__(self) -> None:
        self.requests: Histograms[Any] = Histograms(())
        self.round_trips = Histograms(("load", "commit", "look"))
        self.lag = Histograms(("loop",))
        self.ended = Counts(("deleted", "sequence_end", "expired"))
        self.unknown = Counts(("commits",))
        self.streams = Gauge()
        self.redis_down = Gauge()
        self.triton = False

    def stored(self, load: int | None, commit: int | None) -> None:
        """Count the round trips of a batch, neither of which may have been needed."""
        if load is not None:
            self.round_trips.observe("load", load)
        if commit is not None:
            self.round_trips.observe("commit", commit)

    def claim(self, slot: int) -> None:
        """Add to this slot from now on: no other process may, while this one runs."""
        for measured in (self.requests, self.round_trips, self.lag, self.ended, self.unknown):
            measured.slots.claim(slot)
        self.release(slot)

    def release(self, slot: int) -> None:
        """Take away what the worker of this slot has shown on the gauges: it has ended."""
        for gauge in (self.streams, self.redis_down):
            gauge.slots.claim(slot)
            gauge.set(0)
