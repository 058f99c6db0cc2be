"""Send a neuron's membrane potential, five samples at a time: `python -m examples.forecaster.client [URL]`.

In a session the forecaster's ring buffer holds the last 32 samples. Without one it holds the five samples just sent and
its initial contents.
"""

import sys

import numpy as np
import requests

from .series import AHEAD, potential

AT_ONCE = 5


def main(service: str) -> None:
    """Print the mean error of the forecasts, with a session and without."""
    model = f"{service}/v1/models/forecaster"
    _, series = potential()
    with requests.Session() as http:
        session = http.post(f"{model}/sessions").json()["session"]
        for how, url in (
            ("with a session", f"{model}/sessions/{session}:predict"),
            ("without", f"{model}:predict"),
        ):
            forecasts = []
            for samples in np.split(series, len(series) // AT_ONCE):
                response = http.post(url, json={"instances": samples.tolist()})
                response.raise_for_status()
                forecasts += response.json()["predictions"]
            # The first samples only fill the ring buffer.
            error = np.abs(np.array(forecasts)[32:-AHEAD] - series[32 + AHEAD :]).mean()
            print(f"{how}: the forecasts are {error:.2f} mV off")
    error = np.abs(series[32:-AHEAD] - series[32 + AHEAD :]).mean()
    print(f"to forecast that nothing changes is {error:.2f} mV off")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
