"""Silero VAD, which is published as TorchScript: its inner module takes the state and returns it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def shipped(package: str, *path: str) -> Path:
    """Return a file of a package, which need not be imported for that."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0]).joinpath(*path)


class Speech(nn.Module):
    """Chunks of 512 samples at 16 kHz, (B, 512), to the probability of speech, (B, 1)."""

    context: Tensor
    state: Tensor

    def __init__(self) -> None:
        super().__init__()
        loaded: Any = torch.jit.load(shipped("silero_vad", "data", "silero_vad.jit"))  # type: ignore[no-untyped-call]
        self.net = loaded._model  # noqa: SLF001 - the part that takes the state
        self.register_buffer("context", torch.zeros(1, 64))
        self.register_buffer("state", torch.zeros(2, 1, 128))

    def forward(self, samples: Tensor) -> Tensor:
        heard = torch.cat((self.context, samples), 1)
        probability: Tensor
        probability, self.state = self.net(heard, self.state)
        self.context = heard[:, -64:]
        return probability
