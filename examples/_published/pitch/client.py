"""Say which pitch a tone has as it glides: `python -m examples._published.pitch.client [URL]`."""

import sys

import numpy as np
from numpy.typing import NDArray

from carryover.client import Client
from examples._published.audio import RATE, glide

FRAME, HOP = 1024, 1600
"""Samples of a frame, and from one to the next."""


def frames(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the frames of a sound, each with mean 0 and deviation 1, as the network was trained."""
    cut = np.stack([sound[start : start + FRAME] for start in range(0, sound.size - FRAME + 1, HOP)])
    scaled = (cut - cut.mean(1, keepdims=True)) / np.maximum(1e-10, cut.std(1, ddof=1, keepdims=True))
    return np.asarray(scaled, np.float32)


def hertz(pitches: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the likeliest of the 360 pitches of each frame, in Hz."""
    cents = 20 * pitches.argmax(1) + 1997.3794084376191
    return 10 * 2 ** (np.asarray(cents, np.float64) / 1200)


def main(service: str) -> None:
    """Print the pitch of each frame, and what it should be."""
    sound, frequency = glide()
    with Client(service) as client:
        found = hertz(client.predict("pitch", frames(sound)).array())
    for number, pitch in enumerate(found):
        middle = number * HOP + FRAME // 2
        print(f"{middle / RATE:.2f} s: {pitch:.0f} Hz, expected {frequency[middle]:.0f} Hz")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
