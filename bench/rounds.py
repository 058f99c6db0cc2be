"""Measuring rows in short alternating rounds, so that a busy moment of the machine hits all of them alike."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from tqdm import tqdm

from bench.generator import Generator
from bench.load import Load, Sample
from bench.messages import connections
from bench.results import Cell
from bench.rows import BASELINE, Row

ROUNDS = 5
WARM_UP = 0.2
"""Seconds of each measurement that are not counted."""


class Server(Protocol):
    """What is measured."""

    port: int

    def pids(self) -> list[int]:
        """All its processes."""


def measure(rows: Sequence[Row], servers: Mapping[str, Server], generator: Generator, seconds: float) -> list[Cell]:
    """Measure rows and the baseline for so many seconds a round, at each of their numbers of connections."""
    counts = sorted({count for row in rows for count in row.connections})
    cells = [Cell(row, count) for count in counts for row in (BASELINE, *rows) if count in row.connections]

    def sample(cell: Cell, seconds: float) -> Sample:
        progress.set_postfix_str(f"{cell.row.title}, {cell.where}")
        server = servers[cell.row.server]
        load = Load(server.port, server.pids(), connections(cell.row, cell.connections), WARM_UP, seconds)
        taken = generator.run(load)
        progress.update()
        return taken

    with tqdm(total=(1 + ROUNDS) * len(cells), desc="rows", unit="run", disable=None) as progress:
        for cell in cells:
            sample(cell, WARM_UP)
        for _ in range(ROUNDS):
            for cell in cells:
                cell.samples.append(sample(cell, seconds))
    found = {(cell.row.name, cell.connections): cell for cell in cells}
    for cell in cells:
        cell.baselines = found[BASELINE.name, cell.connections].samples
        cell.beside = found.get((cell.row.beside, cell.connections))
        cell.triton = found.get((cell.row.triton, cell.connections))
    return cells
