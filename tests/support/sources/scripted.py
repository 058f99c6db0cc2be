"""Modules that are TorchScript inside."""

from typing import Any

import torch
from torch import Tensor, nn


class Cell(nn.Module):
    """(B, 4) and a state (B, 3) to (B, 3) and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 3)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(x, state)
        return state.sigmoid(), state


class Total(nn.Module):
    """Keeps its total in itself."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.total = self.total + x.sum()
        return x + self.total


class Scripted(nn.Module):
    """Passes the state to TorchScript."""

    state: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = torch.jit.script(Cell())
        self.register_buffer("state", torch.zeros(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        y, self.state = self.net(x, self.state)
        return y


class Remembers(nn.Module):
    """Leaves the state to TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = torch.jit.script(Total())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y
