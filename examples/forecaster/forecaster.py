"""The forecaster: a convolution over the last samples, which are kept in a ring buffer."""

import torch
from torch import Tensor, nn


class Forecaster(nn.Module):
    """Forecast the series after each sample from the last `width` samples: (T, B) to (T, B).

    `ring` holds those samples, `position` is the index of the oldest; `centre` and `scale` standardise the series.
    """

    centre: Tensor
    scale: Tensor
    ring: Tensor
    position: Tensor

    def __init__(self, width: int = 32, channels: int = 32) -> None:
        super().__init__()
        self.convolution = nn.Sequential(nn.Conv1d(1, channels, width), nn.ReLU(), nn.Conv1d(channels, 1, 1))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("ring", torch.zeros(1, width))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))

    def forward(self, samples: Tensor) -> Tensor:
        """Replace the oldest sample with each new one, and forecast."""
        return torch.stack([self.step(sample) for sample in (samples - self.centre) / self.scale])

    def step(self, sample: Tensor) -> Tensor:
        """Take one standardised sample of each of B series, (B,), and return the forecasts, (B,)."""
        self.ring.scatter_(1, self.position[:, None], sample[:, None])
        self.position = (self.position + 1) % self.ring.shape[1]
        oldest_first = self.position[:, None] + torch.arange(self.ring.shape[1], device=sample.device)
        window = self.ring.gather(1, oldest_first % self.ring.shape[1])
        change: Tensor = self.convolution(window[:, None])[:, 0, 0]
        return (sample + change) * self.scale + self.centre
