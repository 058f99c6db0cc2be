"""The monthly returns of the S&P 500, in percent."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray


def months() -> tuple[list[str], NDArray[np.float64]]:
    """Return the months from February 1990 to June 2022, and the logarithmic return of each, times 100.

    The index is one of matplotlib's sample data.
    """
    lines = Path(get_sample_data("Stocks.csv", asfileobj=False)).read_text().splitlines()
    rows = [row for row in csv.DictReader(lines[1:]) if row["^GSPC"] and row["Date"].endswith("-01")]
    levels = np.array([float(row["^GSPC"]) for row in rows])
    return [row["Date"][:7] for row in rows[1:]], 100 * np.diff(np.log(levels))
