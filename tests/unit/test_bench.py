"""The benchmark's rows are of the size that they are called, and its ratios are of the same round."""

import json

import pytest

from bench.load import Sample
from bench.messages import connections
from bench.report import document
from bench.results import Cell, cpu, rate
from bench.rows import ROWS
from bench.sessions import Memory
from bench.table import beside_lines, table
from bench.targets import targets

ROW = {row.name: row for row in ROWS}


MIB = 2**20


@pytest.mark.parametrize("name", [row.name for row in ROWS if "1mb" in row.name])
def test_a_large_row_is_about_a_megabyte(name: str) -> None:
    (connection,) = connections(ROW[name], 1)
    request = next(iter(connection.requests))
    assert 0.8 * MIB < len(request) < 1.2 * MIB


def sample(rate: float, cpu: float) -> Sample:
    return Sample(requests=100, rate=rate, p50=1 / rate, p99=2 / rate, cpu=cpu, own_cpu=1e-5, others=0.0)


def test_ratios_are_of_the_same_round() -> None:
    """The machine was busy in the second round: that slowed both rows, and is no cost of the one."""
    plain = Cell(ROW["session"], 32, [sample(1000, 1e-3), sample(100, 9e-3), sample(1000, 1e-3)])
    keyed = Cell(ROW["keyed"], 32, [sample(900, 1.1e-3), sample(90, 9.9e-3), sample(900, 1.1e-3)], beside=plain)
    plain.baselines = keyed.baselines = plain.samples
    assert keyed.ratio_to(plain, rate) == pytest.approx(0.9)
    assert keyed.ratio_to(plain, cpu) == pytest.approx(1.1)
    cells, used = [plain, keyed], Memory(400, 256, 30)
    found = [target for target in targets(cells, used, None) if "a key" in target.what]
    assert [round(target.value, 3) for target in found] == [1.1, 1.111]
    assert all(target.reached for target in found)
    assert "requests/s 0.90  p50 1.11  CPU 1.10" in beside_lines(cells)
    assert "session :predict, with a key" in table(cells)
    written = json.loads(json.dumps(document(cells, used, None, found)))
    assert written["rows"][0]["beside"] is None
    assert written["rows"][1]["beside"]["name"] == "session"


def test_a_key_that_costs_too_much_is_said() -> None:
    plain = Cell(ROW["session"], 1, [sample(1000, 1e-3)])
    keyed = Cell(ROW["keyed"], 1, [sample(800, 1.2e-3)], beside=plain)
    plain.baselines = keyed.baselines = plain.samples
    missed = [target for target in targets([plain, keyed], Memory(400, 256, 30), None) if not target.reached]
    assert [target.what for target in missed if "a key" in target.what] == [
        "CPU of session :predict, with a key over that of one without at 1 connection",
        "requests/s of session :predict over those with a key at 1 connection",
    ]
