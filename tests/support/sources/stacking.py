"""Modules without a batch axis: some whose forward `torch.func.vmap` can run for many calls, and some others."""

import torch
from torch import Tensor, nn


class Sum(nn.Module):
    """(N,) to (N,): plus the sum of all that it was ever given, which it adds to in place."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.sum()
        return x + self.total


class Rebinds(Sum):
    """As `Sum`, with another tensor in the buffer's place."""

    def forward(self, x: Tensor) -> Tensor:
        self.total = self.total * 0.5 + x.sum()
        return x * self.total


class HalfPrecision(nn.Module):
    """(N,) to (N,), with a state in bfloat16 and a constant output for each call."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2, 2, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        self.total = self.total + x.amax().to(torch.bfloat16)
        return x + self.total.float().sum()


class Stateless(nn.Module):
    """(N,) to (N,)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 - x.amin()


class Branches(Sum):
    """As `Sum`, with a branch on a value."""

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.sum() if float(x.sum()) < 100 else 1.0
        return x + self.total


class Draws(Sum):
    """As `Sum`, with random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.sum()
        return x + self.total + torch.rand(())


class Grows(Sum):
    """(N,) to (N,), with a state that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        self.total = torch.cat([self.total, x])
        return x + self.total.sum()
