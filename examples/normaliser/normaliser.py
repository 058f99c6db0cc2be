"""The normaliser: the running mean and variance of a stream, in three buffers that are updated in place."""

import torch
from torch import Tensor, nn


class Normaliser(nn.Module):
    """Score each float64 value against the previous ones: (T, B) to `score`, `mean` and `variance`, all (T, B).

    Source: Welford (1962), Note on a Method for Calculating Corrected Sums of Squares and Products,
    Technometrics 4, 419-420.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("count", "mean", "squares"):
            self.register_buffer(name, torch.zeros(1, dtype=torch.float64))

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """Score the values, and update the statistics with them."""
        rows = [torch.stack(self.step(value)) for value in values]
        score, mean, variance = torch.stack(rows, 1)
        return {"score": score, "mean": mean, "variance": variance}

    def step(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score one value of each of B streams, (B,), and update the statistics with it."""
        difference = value - self.mean
        score = difference / (self.squares / (self.count - 1)).sqrt()
        self.count += 1
        self.mean += difference / self.count
        self.squares += difference * (value - self.mean)
        return score, self.mean.clone(), self.squares / (self.count - 1)
