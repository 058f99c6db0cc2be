"""Modules that are made and called in other ways than by their class's forward with tensors alone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


@dataclass
class Config:
    features: int = 4
    hidden: int = 6
    dtype: torch.dtype | None = None


class Configured(nn.Module):
    """Needs an object of its own class, and a list of others: (B, F) to (B, H)."""

    def __init__(self, config: Config, layers: list[Any], name: str | None = "net") -> None:
        super().__init__()
        assert isinstance(config, Config)
        assert name is None
        assert config.dtype is torch.float32
        self.net = nn.Sequential(nn.Linear(config.features, config.hidden, dtype=config.dtype), *layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.net(x))


def configured(hidden: int) -> nn.Module:
    """A function that makes a module."""
    return nn.Sequential(nn.Linear(4, hidden), nn.Tanh())


def nothing() -> dict[str, int]:
    return {}


class Masked(nn.Module):
    """Its mask has a default: (N, F) to (N, F)."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("total", torch.zeros(1, 4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        kept = x if mask is None else x * mask
        self.total = self.total + kept
        return torch.as_tensor(self.scale * self.total)


class Blends(nn.Module):
    """Two inputs that both have a default, of which one is given at least: (N, F) to (N, F)."""

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        given = [value for value in (x, mask) if value is not None]
        return torch.stack(given).sum(0)


class Needs(nn.Module):
    """Has a default with which it does not run: (N, F) to (N, F)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x * mask  # type: ignore[operator]


class Reshapes(nn.Module):
    """Gives another shape without its mask: (N, F) to (N, F) or (N,)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x.sum(1) if mask is None else x * mask


class Packed(nn.Module):
    """Takes lengths, which are not 0: (B, T, F) and (B,) to (B, H)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 6, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return torch.as_tensor(self.rnn(packed)[1][-1])


class Streams(nn.Module):
    """Keeps its state only where it is told to, in another method than forward: (1, F) to a dict."""

    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("last", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def infer(self, x: Tensor, stream: bool = False) -> dict[str, Any]:
        y = self.linear(x) + self.last
        if stream:
            self.last = x
        return {"scores": {"y": y, "z": y * 2}}
