"""The results as text."""

from collections.abc import Sequence
from statistics import median

from bench.live import CONNECTIONS, FEW, Live
from bench.results import Cell, Quantity, cpu, others, own_cpu, p50, p99, rate
from bench.sessions import Memory
from carryover.server import cpus

_HEADS = (
    "",
    "conn.",
    "requests/s",
    "x baseline",
    "steps/s",
    "p50 ms",
    "x baseline",
    "p99 ms",
    "x baseline",
    "CPU us/req.",
    "x baseline",
    "req./s x Triton",
    "CPU x Triton",
)
_COMPARED: dict[str, Quantity] = {"requests/s": rate, "p50": p50, "CPU": cpu}


def table(cells: Sequence[Cell]) -> str:
    """Return one line a cell; every ratio is to the baseline at the same number of connections."""
    lines = [_HEADS, *(_line(cell) for cell in cells)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    text = []
    for line, before in zip(lines, [None, *lines], strict=False):
        if before and line[1] != before[1]:
            text.append("")
        first, *rest = (part.rjust(width) for part, width in zip(line, widths, strict=True))
        text.append("  ".join([line[0].ljust(len(first)), *rest]))
    spent = [1e6 * cell.middle(own_cpu) for cell in cells]
    busy = [cell.middle(others) for cell in cells]
    kept = f"{median(busy):.2f} of the {cpus.available()} CPUs busy meanwhile, {max(busy):.2f} at worst"
    text += [
        "",
        f"The load generator itself took {min(spent):.0f} to {max(spent):.0f} us of CPU a request.",
        f"Other programs kept {kept}.",
        "The baseline never waits: a worker stays with a connection for as long as requests come, so at 32 and 128",
        "connections its p50 is that of the few connections which are served, its p99 that of those which are not.",
    ]
    return "\n".join(text)


def markdown(cells: Sequence[Cell]) -> str:
    """Return the rows of the table in `docs/benchmarks.md`."""
    lines = ["| row | connections | requests/s | × baseline | steps/s | p50, ms | CPU µs a request | × Triton's CPU |"]  # noqa: RUF001
    lines.append("|---" * lines[0].count(" | ") + "|---|")
    for cell in cells:
        ratio = f"{cell.ratio_to(cell.triton, cpu):.2f}" if cell.triton else ""
        steps, p50_ms = f"{cell.steps:,.0f}" if cell.steps else "", 1e3 * cell.middle(p50)
        figures = (
            cell.row.title, cell.connections, f"{cell.middle(rate):,.0f}", f"{cell.ratio(rate):.2f}", steps,
            f"{p50_ms:.2f}" if p50_ms < 10 else f"{p50_ms:,.0f}", f"{1e6 * cell.middle(cpu):,.0f}", ratio,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


def beside_lines(cells: Sequence[Cell]) -> str:
    """Return what rows cost beside those that they are held against."""
    found = [(cell, cell.beside) for cell in cells if cell.beside]
    names = [f"{cell.row.title} / {other.row.title}" for cell, other in found]
    lines = ["Ratios of rows to each other, from the same rounds:"]
    for (cell, other), name in zip(found, names, strict=True):
        ratios = (f"{what} {cell.ratio_to(other, of):.2f}" for what, of in _COMPARED.items())
        lines.append("  ".join(["", name.ljust(max(map(len, names))), cell.where.rjust(15), *ratios]))
    return "\n".join(lines)


def live_lines(live: Live) -> str:
    """Return what a step costs with few and with many sessions in the store."""
    lines = [f"A step of a session drawn at random from a store of {live.sessions:,}, {CONNECTIONS} connections:"]
    for sessions, samples in ((FEW, live.few), (live.sessions, live.many)):
        steps, spent = median(map(rate, samples)), 1e6 * median(map(cpu, samples))
        lines.append(f"  from {sessions:>9,} of them  {steps:>7,.0f} steps/s  {spent:,.0f} us of CPU a step")
    lines.append(f"  ratio of the pairs' steps/s {live.ratio(rate):.3f}, of their CPU {live.ratio(cpu):.3f}")
    return "\n".join(lines)


def triton_line(cells: Sequence[Cell]) -> str:
    """Return whether Triton was measured."""
    if any(cell.triton for cell in cells):
        return "Triton has the same modules and weights; its sequences are in memory, and end with it."
    return "Triton was not measured: it is not installed, or TRITON does not name its folder."


def memory_line(memory: Memory) -> str:
    """Return what a session takes."""
    return (
        f"A stored RNN session takes {memory.total} bytes of Redis memory: {memory.state} of state, {memory.name} of "
        f"its key's name, {memory.overhead} of everything else."
    )


def _line(cell: Cell) -> tuple[str, ...]:
    figures = [f"{cell.middle(rate):,.0f}", _ratio(cell, rate), f"{cell.steps:,.0f}" if cell.steps else "-"]
    for quantity in (p50, p99):
        figures += [f"{1e3 * cell.middle(quantity):.2f}", _ratio(cell, quantity)]
    figures += [f"{1e6 * cell.middle(cpu):,.0f}", _ratio(cell, cpu)]
    beside = [f"{cell.ratio_to(cell.triton, of):.2f}" if cell.triton else "-" for of in (rate, cpu)]
    return (cell.row.title, str(cell.connections), *figures, *beside)


def _ratio(cell: Cell, quantity: Quantity) -> str:
    ratio = cell.ratio(quantity)
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"
