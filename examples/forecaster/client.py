"""Send a neuron's membrane potential, five samples at a time: `python -m examples.forecaster.client [URL]`.

In a session the forecaster's ring buffer holds the last 32 samples. Without one it holds the five samples just sent and
its initial contents.
"""

import sys
from functools import partial

import numpy as np

from carryover.client import Client

from .series import AHEAD, potential

AT_ONCE = 5


def main(service: str) -> None:
    """Print the mean error of the forecasts, with a session and without."""
    _, series = potential()
    with Client(service) as client:
        session = client.create("forecaster")
        for how, predict in (("with a session", session.step), ("without", partial(client.predict, "forecaster"))):
            sent = np.split(series, len(series) // AT_ONCE)
            forecasts = np.concatenate([predict(samples).array() for samples in sent])
            # The first samples only fill the ring buffer.
            error = np.abs(forecasts[32:-AHEAD] - series[32 + AHEAD :]).mean()
            print(f"{how}: the forecasts are {error:.2f} mV off")
    error = np.abs(series[32:-AHEAD] - series[32 + AHEAD :]).mean()
    print(f"to forecast that nothing changes is {error:.2f} mV off")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
