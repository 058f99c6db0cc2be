"""A module that counts what lives in its process."""

import gc

import torch
from greenlet import greenlet
from torch import Tensor, nn


class Greenlets(nn.Module):
    """(N,) to (N,): how many greenlets of the process have begun and not ended."""

    def forward(self, x: Tensor) -> Tensor:
        alive = sum(isinstance(one, greenlet) and bool(one) for one in gc.get_objects())
        return torch.full_like(x, alive)
