"""Send an EEG as it is recorded, four samples at a time: `python -m examples.detector.client [URL]`.

The detector knows what to expect from the samples that came before. In a session it has them; without one every four
samples are the first it ever saw.
"""

import sys

import numpy as np
import requests

from .series import RATE, eeg

ALARM = 4.0
"""So many times the usual error is an alarm."""

AT_ONCE, SHOWN = 4, 8


def main(service: str) -> None:
    """Print when the alarm goes off, with a session and without."""
    model = f"{service}/v1/models/detector"
    with requests.Session() as http:
        session = http.post(f"{model}/sessions").json()["session"]
        for how, address in (
            ("with a session", f"{model}/sessions/{session}:predict"),
            ("without", f"{model}:predict"),
        ):
            surprise = []
            for samples in np.split(eeg(), 800 // AT_ONCE):
                answer = http.post(address, json={"instances": samples.tolist()})
                answer.raise_for_status()
                surprise += answer.json()["predictions"]
            alarms = [sample / RATE for sample, value in enumerate(surprise) if value > ALARM]
            seconds = sorted({f"{second:.1f}" for second in alarms})
            shown = ", ".join(seconds[:SHOWN]) + (" ..." if len(seconds) > SHOWN else "")
            print(f"{how}: {len(alarms)} of {len(surprise)} samples raise the alarm, at {shown} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
