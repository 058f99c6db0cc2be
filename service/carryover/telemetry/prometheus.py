"""Metrics in Prometheus' text format.

prometheus-client renders, and nothing more: its own counters cost a request ten times as much, and a file per worker.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from carryover.telemetry.metrics import BOUNDS, Distribution

MEDIA_TYPE = CONTENT_TYPE_LATEST
_NAMES = [*map(str, BOUNDS), "+Inf"]

Labels = tuple[str, ...]
"""The values of a series' labels."""


def counter(name: str, description: str, labels: Labels, series: Mapping[Labels, float]) -> Metric:
    """Return counters; `name` is without `_total`."""
    family = CounterMetricFamily(name, description, labels=labels)
    for values, value in series.items():
        family.add_metric(values, value)
    return family


def gauge(name: str, description: str, labels: Labels, series: Mapping[Labels, float]) -> Metric:
    """Return gauges."""
    family = GaugeMetricFamily(name, description, labels=labels)
    for values, value in series.items():
        family.add_metric(values, value)
    return family


def untyped(name: str, description: str, labels: Labels, series: Mapping[Labels, float]) -> Metric:
    """Return numbers under a name that keeps to no convention, such as a counter's without `_total`."""
    family = Metric(name, description, "unknown")
    for values, value in series.items():
        family.add_sample(name, dict(zip(labels, values, strict=True)), value)
    return family


def info(name: str, description: str, series: Iterable[Mapping[str, str]]) -> Metric:
    """Return series that are 1, whose labels say something; `name` is without `_info`."""
    family = InfoMetricFamily(name, description)
    for said in series:
        family.add_metric((), dict(said))
    return family


def durations(name: str, description: str, labels: Labels, series: Iterable[tuple[Labels, Distribution]]) -> Metric:
    """Return histograms of durations; `name` ends in `_seconds`."""
    family = HistogramMetricFamily(name, description, labels=labels)
    for values, found in series:
        family.add_metric(values, _cumulative(_NAMES, found.buckets), found.total / 1e9)
    return family


def sizes(name: str, description: str, bounds: Iterable[int], counts: Mapping[int, int]) -> Metric:
    """Return a histogram of whole numbers, from how often there was each; none is larger than the last bound."""
    names, buckets, below = [], [], 0
    for bound in bounds:
        names.append(str(float(bound)))
        buckets.append(sum(count for size, count in counts.items() if below < size <= bound))
        below = bound
    family = HistogramMetricFamily(name, description)
    total = sum(size * count for size, count in counts.items())
    family.add_metric((), _cumulative([*names, "+Inf"], [*buckets, 0]), total)
    return family


def text(families: Iterable[Metric]) -> bytes:
    """Return metrics as a scraper reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(list(families)))
    return generate_latest(registry)


class _Families:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _cumulative(names: list[str], buckets: list[int]) -> list[tuple[str, float]]:
    below = 0
    found: list[tuple[str, float]] = []
    for name, count in zip(names, buckets, strict=True):
        below += count
        found.append((name, below))
    return found
