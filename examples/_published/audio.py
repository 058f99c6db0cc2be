"""Sounds that need no recording: vowels with pauses, and a tone that glides."""

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (570, 840, 2410), (530, 1840, 2480))
"""Of the vowels in father, heed, hawed and head, in Hz (Peterson and Barney, 1952)."""


def vowels(seconds: float = 1.2, pause: float = 0.8) -> NDArray[np.float32]:
    """Return two utterances of vowels in noise, with pauses before, between and after them; samples in -1 to 1."""
    silence = np.zeros(int(pause * RATE))
    sound = np.concatenate([silence, _utterance(seconds, 120), silence, _utterance(seconds, 190), silence])
    noise = np.random.default_rng(0).standard_normal(sound.size)
    return np.asarray(0.6 * sound / np.abs(sound).max() + 0.001 * noise, np.float32)


def glide(
    seconds: float = 1.0, low: float = 110.0, high: float = 440.0
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return a tone whose pitch rises, and its frequency in Hz at each sample."""
    frequency = low * (high / low) ** (np.arange(int(seconds * RATE)) / (seconds * RATE))
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    tone = [0.5**k * np.sin(k * phase) for k in (1, 2, 3)]
    return np.sum(tone, 0, dtype=np.float32), frequency


def read(path: Path) -> NDArray[np.float32]:
    """Return the samples of a WAV file of 16 kHz, 16 bits and one channel."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (RATE, 2, 1):
            raise SystemExit(f"{path}: expected 16 kHz, 16 bits and one channel")
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return np.asarray(samples / 2**15, np.float32)


def _utterance(seconds: float, pitch: float) -> NDArray[np.float64]:
    """A glottal pulse train through the resonances of one vowel after another."""
    length = int(seconds * RATE / len(FORMANTS))
    time = np.arange(length * len(FORMANTS)) / RATE
    phase = np.cumsum(pitch * (1 + 0.05 * np.sin(2 * np.pi * 3 * time)) / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    vowel = [
        _resonant(part, formants) for part, formants in zip(np.split(pulses, len(FORMANTS)), FORMANTS, strict=True)
    ]
    return np.concatenate([part / np.abs(part).max() * np.hanning(part.size + 2)[1:-1] ** 0.3 for part in vowel])


def _resonant(signal: NDArray[np.float64], formants: tuple[int, ...]) -> NDArray[np.float64]:
    time = np.arange(RATE // 20) / RATE
    for frequency, width in zip(formants, (80, 90, 120), strict=True):
        ringing = np.exp(-np.pi * width * time) * np.sin(2 * np.pi * frequency * time)
        signal = np.convolve(signal, ringing)[: signal.size]
    return signal
