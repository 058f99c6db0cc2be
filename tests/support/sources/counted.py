"""A module that counts what lives in its process."""

import gc

import torch
from greenlet import greenlet
from torch import Tensor, nn


class Greenlets(nn.Module):
    """(N,) to (N,): how many greenlets of the process have begun and not ended.

    Those of native threads do not count: gevent's pool keeps its threads, of which it has a limited number.
    """

    def forward(self, x: Tensor) -> Tensor:
        alive = [one for one in gc.get_objects() if isinstance(one, greenlet) and one]
        return torch.full_like(x, sum(type(one).__name__ != "_WorkerGreenlet" for one in alive))
