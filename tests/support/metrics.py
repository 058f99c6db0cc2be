"""Reading what `/metrics` says, with Prometheus' own parser."""

from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import Client

Labels = dict[str, str]

ROUND_TRIPS = "carryover_redis_round_trip_seconds_count"
"""How often Redis was asked, by what for."""


class Scrape:
    """The samples of one response."""

    def __init__(self, client: Client) -> None:
        response = client.get("/metrics")
        assert response.status == 200, response.body
        assert response.headers.get_content_type() == "text/plain"
        self.text = response.body.decode()
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels, among others; 0 where there is none."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    def samples(self, name: str) -> list[tuple[Labels, float]]:
        return [
            (dict(sample.labels), sample.value)
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name
        ]


def risen(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    """How much a value has risen from one scrape to another."""
    return after.value(name, **labels) - before.value(name, **labels)
