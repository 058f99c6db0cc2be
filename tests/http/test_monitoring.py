"""The dashboard and the alert rules name only metrics and labels that there are, and every alert rule is tested."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from tests.support.metrics import Scrape
from tests.support.paths import ROOT
from tests.support.service import Service
from tests.support.waiting import eventually

FOLDER = ROOT / "deploy" / "monitoring"
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "grafana" / "carryover.json").read_text())
PROMETHEUS_OWN = {"up"}
"""Metrics that Prometheus makes of each scrape."""
OF_SCRAPES = {"job", "instance"}
"""Labels that Prometheus adds to what it scrapes."""
METRIC = re.compile(r"\b(carryover_\w+|up)\b(?:\{([^}]*(?:\{\w+\}[^}]*)*)\})?")


def expressions() -> Iterator[tuple[str, str]]:
    """What names a metric: where it is, and the expression."""
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield f"the variable {variable['name']}", variable["definition"]


@pytest.fixture(scope="module")
def known(service: Service) -> dict[str, set[str]]:
    """The labels of every series that is described in `/metrics`."""
    with service.client() as client:
        path = client.create("digits-rnn")
        client.step(path, [[0] * 8])
        client.get(path)
        eventually("a count of the sessions", lambda: Scrape(client).samples("carryover_sessions"))
        eventually("a look at the event loop", lambda: Scrape(client).samples("carryover_loop_lag_seconds_count"))
        scrape = Scrape(client)
    labels: dict[str, set[str]] = {}
    for family in scrape.families.values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


@pytest.mark.parametrize(("place", "expression"), [*expressions()], ids=lambda value: value[:40])
def test_metrics_and_labels_exist(known: dict[str, set[str]], place: str, expression: str) -> None:
    found = METRIC.findall(expression)
    assert found, place
    for name, selectors in found:
        assert name in known.keys() | PROMETHEUS_OWN, (place, name)
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\"", selectors))
        assert used <= known.get(name, set()) | OF_SCRAPES, (place, name, used)
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.findall(r"\w+", group)}
    assert grouped <= set().union(*(known.get(name, set()) for name, _ in found)) | OF_SCRAPES, place


def test_every_metric_is_on_the_dashboard(known: dict[str, set[str]]) -> None:
    shown = " ".join(expression for _, expression in expressions())
    names = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in known}
    assert len(names) > 14
    assert [name for name in names if name not in shown] == []


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]
    tested = [check for case in cases for check in case["alert_rule_test"]]
    for rule in ALERTS:
        fires = {bool(check.get("exp_alerts")) for check in tested if check["alertname"] == rule["alert"]}
        assert fires == {True, False}, rule["alert"]
        assert set(rule["labels"]) == {"severity"}
        assert rule["annotations"]["summary"].endswith(".")
