"""Versions of one model that take and give different things."""

import torch
from torch import Tensor, nn


class Narrow(nn.Module):
    """(T, B, 2) to (T, B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, h = self.gru(x, h)
        return self.out(y), h


class Wide(nn.Module):
    """(T, B, 3) and a gain to two outputs, (T, B, 4) each."""

    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4)
        self.register_buffer("h", torch.zeros(1, 1, 4))

    def forward(self, signal: Tensor, gain: Tensor) -> dict[str, Tensor]:
        y, self.h = self.gru(signal * gain, self.h)
        return {"y": y, "sign": y > 0}


class Plain(nn.Module):
    """(N, 2) to (N,), without state."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(x)[:, 0]
        return y
