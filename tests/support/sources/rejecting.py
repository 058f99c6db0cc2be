"""Modules that raise at some inputs, or from some states."""

from pathlib import Path

import torch
from torch import Tensor, nn


class Speller(nn.Module):
    """(B, T) tokens to (B, T, 4): a table of 8 tokens, and a GRU."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 3)
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.register_buffer("hidden", torch.zeros(1, 1, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor
        y, self.hidden = self.rnn(self.table(tokens), self.hidden)
        return y


class Positions(nn.Module):
    """(T,) to (T,): adds what it has learned for each of the first four steps."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 1)
        self.register_buffer("step", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.table(self.step)
        self.step = self.step + 1
        return y


class Choosy(nn.Module):
    """(T,) to (T,): what it raises depends on the largest number; it raises at 1 only while there is a file."""

    RAISES = (
        ValueError("expected numbers below 2"),
        AssertionError(),
        ZeroDivisionError("division by zero"),
        KeyError(4),
        RuntimeError("no table in /srv/models/choosy.bin"),
        ValueError("x" * 5000 + "\nsecret"),
        TypeError("not a number"),
        MemoryError(),
        torch.OutOfMemoryError("out of memory"),
    )

    sum: Tensor

    def __init__(self, file: str = "") -> None:
        super().__init__()
        self.file = file
        self.register_buffer("sum", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        self.sum = self.sum + x.sum()
        largest = int(x.max()) if x.numel() else 0
        if largest == 1 and Path(self.file).exists():
            Path(self.file).unlink()
            raise ValueError("for once")
        if largest == 50:
            return torch.empty(2**58)
        if largest >= 2:
            raise self.RAISES[largest - 2]
        y: Tensor = x + self.sum
        return y
