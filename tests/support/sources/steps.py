"""Modules whose rows are time steps, (T, 3) to (T, 3): for some, several calls may be one of as many more rows."""

import torch
from torch import Tensor, nn


class Decay(nn.Module):
    """A moving average of all rows, in a loop."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for row in x:
            self.level = 0.9 * self.level + row
            found.append(self.level)
        return torch.stack(found)


class Cache(nn.Module):
    """The sum of all rows so far, of which each is kept."""

    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        before = len(self.rows)
        self.rows = torch.cat((self.rows, x))
        return self.rows.cumsum(0)[before:]


class Centred(Decay):
    """Takes the mean of the rows of a call."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Counts(Decay):
    """Adds what it counts: its calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x) + self.calls


class Silences(Decay):
    """Starts again where a call is loud, which few are."""

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().sum() > 1e6:
            self.level = torch.zeros(3)
        return super().forward(x)


class Forgets(Decay):
    """Keeps the last row only, which may be infinite, and does not stay so."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        self.level = 2 * x[-1]
        return found


class Draws(Decay):
    """Adds noise."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


class Last(Decay):
    """Gives one row, whatever it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[-1:]
