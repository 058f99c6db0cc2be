"""The membrane potential of a neuron that fires, in mV, one sample every 2 ms."""

import numpy as np
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray

AHEAD = 10
"""How many samples ahead is forecast: 20 ms."""


def potential() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two seconds of regular firing for training, and the second after them.

    The recording is one of matplotlib's sample data; every fourth of its samples is kept.
    """
    recording = 100 * np.fromfile(get_sample_data("membrane.dat", asfileobj=False), np.float32)[::4]
    return recording[400:1400], recording[1400:1900]
