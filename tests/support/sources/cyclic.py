"""A module that refers to itself, as those with hooks do: reference counts alone never free it."""

import torch
from torch import Tensor, nn

NUMBERS = 4 * 2**20
"""Of 32 bits, in its table."""


class Cyclic(nn.Module):
    """Adds the first number of a table that it makes itself."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(NUMBERS), persistent=False)
        self.add = self.forward

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[0]
