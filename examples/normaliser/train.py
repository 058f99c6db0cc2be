"""Fit the normaliser to the nineties: `python -m examples.normaliser.train`.

The state buffers in the checkpoint are the initial state of every session.
"""

from pathlib import Path

import torch
from safetensors import torch as safetensors

from .normaliser import Normaliser
from .series import months


def train() -> Normaliser:
    """Return a normaliser that has seen every month before 2000."""
    names, growth = months()
    model = Normaliser()
    model(torch.tensor([[value] for name, value in zip(names, growth, strict=True) if name < "2000"]))
    return model


if __name__ == "__main__":
    weights = safetensors.save(train().state_dict())
    Path(__file__).with_name("1").mkdir(exist_ok=True)
    Path(__file__).with_name("1").joinpath("weights.safetensors").write_bytes(weights)
