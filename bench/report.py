"""The results as a JSON document."""

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.live import FEW, Live
from bench.results import Cell, cpu, others, own_cpu, p50, p99, rate
from bench.sessions import Memory
from bench.targets import Target
from carryover.server import cpus


def document(cells: Sequence[Cell], memory: Memory, live: Live | None, targets: Sequence[Target]) -> dict[str, Any]:
    """Return everything that was measured; times in seconds, memory in bytes."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": cpus.available(), "system": platform.platform(), "python": platform.python_version()},
        "rows": [_cell(cell) for cell in cells],
        "live_sessions": live
        and {
            "few": {"sessions": FEW, "samples": [asdict(sample) for sample in live.few]},
            "many": {"sessions": live.sessions, "samples": [asdict(sample) for sample in live.many]},
            "ratio": {"rate": live.ratio(rate), "cpu": live.ratio(cpu)},
        },
        "memory": asdict(memory) | {"overhead": memory.overhead},
        "targets": [asdict(target) | {"reached": target.reached} for target in targets],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    quantities = {"rate": rate, "p50": p50, "p99": p99, "cpu": cpu, "own_cpu": own_cpu, "others": others}
    return {
        "name": cell.row.name,
        "title": cell.row.title,
        "connections": cell.connections,
        "steps": cell.steps,
        "medians": {name: cell.middle(quantity) for name, quantity in quantities.items()},
        "ratios_to_baseline": {name: cell.ratio(quantities[name]) for name in ("rate", "p50", "p99", "cpu")},
        "beside": cell.beside
        and {
            "name": cell.beside.row.name,
            "ratios": {name: cell.ratio_to(cell.beside, quantities[name]) for name in ("rate", "p50", "cpu")},
        },
        "triton": cell.triton
        and {
            "name": cell.triton.row.name,
            "ratios": {n: cell.ratio_to(cell.triton, quantities[n]) for n in ("rate", "p50", "cpu")},
        },
        "samples": [asdict(sample) for sample in cell.samples],
    }
