"""Send audio as it arrives, and say when speech starts and ends.

`python -m examples._published.speech.client [URL] [WAV]`
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carryover.client import Client
from examples._published.audio import RATE, read, vowels

CHUNK = 512
ON, OFF, PATIENCE = 0.5, 0.35, 4
"""Speech starts at one probability, and ends after so many chunks below the other."""


def probabilities(client: Client, sound: NDArray[np.float32]) -> Iterator[float]:
    """Yield the probability of speech in each chunk, as soon as it is there."""
    with client.create("speech").stream() as stream:
        for start in range(0, sound.size - CHUNK + 1, CHUNK):
            stream.send([sound[start : start + CHUNK].tolist()])
            yield stream.receive().predictions[0][0]


def changes(found: Iterable[float]) -> Iterator[tuple[float, bool]]:
    """Yield when speech starts (True) and ends, in seconds."""
    speaking, below = False, 0
    for number, probability in enumerate(found):
        below = below + 1 if probability < OFF else 0
        if not speaking and probability >= ON:
            speaking = True
            yield number * CHUNK / RATE, True
        elif speaking and below == PATIENCE:
            speaking = False
            yield (number + 1 - PATIENCE) * CHUNK / RATE, False


def main(service: str, sound: NDArray[np.float32]) -> None:
    """Print when speech starts and ends."""
    with Client(service) as client:
        for second, speaking in changes(probabilities(client, sound)):
            print(f"{second:.2f} s: speech {'starts' if speaking else 'ends'}")


if __name__ == "__main__":
    asked = sys.argv[1:]
    main(asked[0] if asked else "http://127.0.0.1:8000", read(Path(asked[1])) if asked[1:] else vowels())
