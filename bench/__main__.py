"""`python -m bench`: measure, print the table and the targets, save the plot and the figures."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import live, rounds, triton
from bench.generator import Generator
from bench.live import Live
from bench.messages import sessions_needed
from bench.plot import plot
from bench.report import document
from bench.responses import LoadError
from bench.results import Cell
from bench.rows import BASELINE, ROWS, TRITON_ROWS, Row
from bench.server import ServerError, running
from bench.sessions import Memory, fill, memory
from bench.table import beside_lines, live_lines, markdown, memory_line, table, triton_line
from bench.targets import Target, targets
from tests.support.paths import ROOT

LIVE = "live"
_BASELINE_OPTIONS = ("--config", "bench/baseline_conf.py")


def main() -> int:
    """Run the benchmark: 0 also where a target is not reached, 1 where something failed."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the servers are to end with it
    asked = options.only or [*(row.name for row in ROWS), LIVE]
    try:
        with Generator() as generator:
            rows = [row for row in ROWS if row.name in asked and row is not BASELINE]
            cells, used = _measure_rows(rows, generator, options.seconds)
            several = live.measure(options.sessions, generator, options.seconds) if LIVE in asked else None
    except (LoadError, ServerError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _show(cells, used, several, options.out)
    return 0


def _measure_rows(rows: Sequence[Row], generator: Generator, seconds: float) -> tuple[list[Cell], Memory]:
    asked = {row.triton for row in rows}
    others = [row for row in TRITON_ROWS if row.name in asked]
    installed = triton.find() if others else None
    with ExitStack() as stack:
        baseline, service = stack.enter_context(running(*_BASELINE_OPTIONS)), stack.enter_context(running())
        servers: dict[str, rounds.Server] = {"baseline": baseline, "service": service}
        if installed is not None:
            servers["triton"] = stack.enter_context(triton.running(installed))
            rows = [*rows, *others]
        stepped = [service]
        if any(row.server == "keyed" for row in rows):
            servers["keyed"] = keyed = stack.enter_context(running())
            stepped.append(keyed)
        for model, count in sessions_needed(rows).items():
            for each in stepped:
                fill(each, count, model)
        return rounds.measure(rows, servers, generator, seconds), memory(service)


def _show(cells: Sequence[Cell], used: Memory, several: Live | None, folder: Path) -> None:
    found: list[Target] = list(targets(cells, used, several))
    parts = [table(cells)] if cells else []
    parts += [beside_lines(cells)] if any(cell.beside for cell in cells) else []
    parts += [live_lines(several)] if several else []
    parts += [triton_line(cells), memory_line(used), "\n".join(map(str, found))]
    parts += ["For docs/benchmarks.md:", markdown(cells)] if cells else []
    print("", *parts, sep="\n\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(document(cells, used, several, found), indent=1))
    if cells:
        plot(cells, folder / "results.png")
    print(f"\nThe plot and the figures are in {folder}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    names = [row.name for row in ROWS if row is not BASELINE]
    parser.add_argument("--seconds", type=float, default=1.2, help="of each measurement; every row has several")
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", choices=[*names, LIVE], help=f"of {', '.join([*names, LIVE])}"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "out", help="the folder for the plot and the figures"
    )
    parser.add_argument("--sessions", type=int, default=1_000_000, help=f"live sessions, to set against {live.FEW}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
