"""The results as a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.results import Cell, cpu, p50, p99, rate
from bench.targets import LEAST_RATE

_COLOURS = {1: "#9ecae1", 32: "#4292c6", 128: "#08519c"}
_THICKNESS = 0.25

Places = Sequence[tuple[Cell, float]]
Quantity = Callable[[Cell], float]


def plot(cells: Sequence[Cell], path: Path) -> None:
    """Draw requests/s, time to a response and CPU of every row at every number of connections."""
    titles = list(dict.fromkeys(cell.row.title for cell in cells))
    size = (17, 2 + 0.75 * len(titles))
    figure, (rates, times, cpus) = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    figure.suptitle("The service beside its baseline, an empty Flask route behind the same gunicorn", fontsize=14)
    places = _places(cells)

    _bars(rates, places, lambda cell: cell.ratio(rate))
    _figures(
        rates, places, lambda cell: max(cell.ratio(rate), _least_rate(cell)), lambda cell: f"{cell.middle(rate):,.0f}/s"
    )
    rates.set_title("Requests/s, as a share of the baseline's\n(figures: requests/s)", fontsize=11)
    for cell, y in places:
        if least := _least_rate(cell):
            rates.plot([least, least], [y - _THICKNESS / 2, y + _THICKNESS / 2], color="crimson", linewidth=2.5)
    _mark_triton(rates, places, lambda cell: cell.ratio(rate))
    _mark_triton(cpus, places, lambda cell: 1e6 * cell.middle(cpu))

    _bars(times, places, lambda cell: 1e3 * cell.middle(p99), alpha=0.35)
    _bars(times, places, lambda cell: 1e3 * cell.middle(p50))
    _figures(times, places, lambda cell: 1e3 * cell.middle(p99), lambda cell: f"{1e3 * cell.middle(p99):.3g}")
    times.set_title("Time to a response, ms\n(dark: median; light, and figures: 99th percentile)", fontsize=11)
    times.set_xscale("log")

    _bars(cpus, places, lambda cell: 1e6 * cell.middle(cpu))
    _figures(cpus, places, lambda cell: 1e6 * cell.middle(cpu), lambda cell: f"{1e6 * cell.middle(cpu):,.0f}")
    cpus.set_title("CPU of all server processes with Valkey, \N{MICRO SIGN}s a request", fontsize=11)
    cpus.set_xscale("log")

    rates.set_yticks(range(len(titles)), titles)
    rates.invert_yaxis()
    wheres = {cell.connections: cell.where for cell in sorted(cells, key=lambda cell: cell.connections)}
    legend = [Patch(color=_COLOURS.get(count, "grey"), label=where) for count, where in wheres.items()]
    target = Line2D([], [], color="crimson", linewidth=2.5, label="to be reached")
    triton = Line2D([], [], color="black", marker="D", markersize=4, linestyle="", label="Triton, the same request")
    figure.legend(handles=[*legend, target, triton], loc="outside lower center", ncols=len(wheres) + 2, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _least_rate(cell: Cell) -> float:
    return LEAST_RATE.get((cell.row.name, cell.connections), 0.0)


def _places(cells: Sequence[Cell]) -> list[tuple[Cell, float]]:
    """Give every cell its height: a row's cells next to each other, around the row's number."""
    rows = list(dict.fromkeys(cell.row.name for cell in cells))
    places = []
    for number, name in enumerate(rows):
        own = sorted((cell for cell in cells if cell.row.name == name), key=lambda cell: cell.connections)
        places += [(cell, number + _THICKNESS * (i - (len(own) - 1) / 2)) for i, cell in enumerate(own)]
    return places


def _bars(axes: Axes, places: Places, length: Quantity, alpha: float = 1.0) -> None:
    for cell, y in places:
        colour = _COLOURS.get(cell.connections, "grey")
        axes.barh(y, length(cell), height=_THICKNESS, color=colour, alpha=alpha)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)


def _mark_triton(axes: Axes, places: Places, quantity: Quantity) -> None:
    for cell, y in places:
        if cell.triton:
            axes.plot([quantity(cell.triton)], [y], "D", color="black", markersize=4)


def _figures(axes: Axes, places: Places, end: Quantity, figure: Callable[[Cell], str]) -> None:
    """Write a figure behind the end of each bar."""
    for cell, y in places:
        axes.annotate(figure(cell), (end(cell), y), (6, 0), textcoords="offset points", va="center", fontsize=8)
