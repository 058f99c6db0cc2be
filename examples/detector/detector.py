"""The detector: a GRU that forecasts the next sample, and scores each sample by the error of its forecast."""

import torch
from torch import Tensor, nn


class Detector(nn.Module):
    """Score how surprising each sample is: (T, B, C) to (T, B), 1 for the usual error of the forecast.

    `hidden` and `expected` (the forecast of the next sample) are state; `usual` is measured in training.
    """

    usual: Tensor
    hidden: Tensor
    expected: Tensor

    def __init__(self, channels: int = 4, hidden_size: int = 8) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, hidden_size)
        self.change = nn.Linear(hidden_size, channels)
        self.register_buffer("usual", torch.ones(channels))
        self.register_buffer("hidden", torch.zeros(1, 1, hidden_size))
        self.register_buffer("expected", torch.zeros(1, 1, channels))

    def forward(self, samples: Tensor) -> Tensor:
        """Compare each sample with its forecast, and forecast the next one."""
        forecasts, self.hidden = self.forecast(samples, self.hidden)
        expected = torch.cat((self.expected, forecasts))
        self.expected = expected[-1:]
        return ((samples - expected[:-1]) / self.usual).square().mean(-1).sqrt()

    def forecast(self, samples: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return for each sample the forecast of the next, (T, B, C), and the hidden state after the last."""
        output, hidden = self.gru(samples, hidden)
        return samples + self.change(output), hidden
