"""An EEG of ten seconds: four electrodes (PG3, PG5, PG7, PG9), 80 samples a second, standardised."""

import numpy as np
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray

RATE = 80
"""Samples a second."""

QUIET = 500
"""The number of samples before the two sharp waves of the recording."""


def eeg() -> NDArray[np.float64]:
    """Return the recording, (800, 4). It is one of matplotlib's sample data."""
    recording: NDArray[np.float64] = np.fromfile(get_sample_data("eeg.dat", asfileobj=False)).reshape(800, 4)
    return recording
