"""Modules that take as long as their input says."""

import time

import torch
from torch import Tensor, nn


class Timed(nn.Module):
    """(N,) to (N,): the input, after as many seconds of work as its first element says."""

    def forward(self, x: Tensor) -> Tensor:
        square, end = torch.ones(200, 200), time.monotonic() + float(x[0])
        while time.monotonic() < end:
            square = (square @ square).clamp(0, 1)
        return x + 0


class Waits(nn.Module):
    """(N,) to (N,): as `Timed`, without the work; what is tried at load does not take long."""

    def forward(self, x: Tensor) -> Tensor:
        seconds = float(x[0])
        time.sleep(seconds if seconds > 10 else 0.0)
        return x + 0


class TimedSum(nn.Module):
    """(N,) to (N,): as `Timed`, plus the sum of all that it was ever given."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.timed = Timed()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.sum()
        y: Tensor = self.timed(x) + self.total
        return y


class TimedWindow(nn.Module):
    """(N,) to a scalar: the sum of all that it was ever given, after as many seconds of work as `Timed`."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.timed = Timed()
        self.register_buffer("window", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.window = torch.cat([self.window, x])
        self.timed(x)
        return self.window.sum()


class Random(nn.Module):
    """(N,) to (N,): the input, times a number that is drawn when the module is constructed; as long as `Timed`."""

    def __init__(self) -> None:
        super().__init__()
        self.timed = Timed()
        self.factor = torch.rand(())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.timed(x) * self.factor
        return y
