"""Send an EEG as it is recorded, four samples at a time: `python -m examples.detector.client [URL]`.

The detector forecasts each sample from the previous ones. In a session it has seen them; without one, it starts
from scratch with every four samples.
"""

import sys
from functools import partial

import numpy as np

from carryover.client import Client

from .series import RATE, eeg

ALARM = 4.0
"""A surprise of this many times the usual error raises the alarm."""

AT_ONCE, SHOWN = 4, 8


def main(service: str) -> None:
    """Print when the alarm is raised, with a session and without."""
    with Client(service) as client:
        session = client.create("detector")
        for how, predict in (("with a session", session.step), ("without", partial(client.predict, "detector"))):
            surprise = np.concatenate([predict(samples).array() for samples in np.split(eeg(), 800 // AT_ONCE)])
            alarms = [sample / RATE for sample, value in enumerate(surprise) if value > ALARM]
            seconds = sorted({f"{second:.1f}" for second in alarms})
            shown = ", ".join(seconds[:SHOWN]) + (" ..." if len(seconds) > SHOWN else "")
            print(f"{how}: {len(alarms)} of {len(surprise)} samples raise the alarm, at {shown} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
