"""A module whose import leaves what a forked process cannot end, such as native threads that did not come along."""

import atexit
import os
import time

from torch import Tensor, nn

_FIRST = os.getpid()


@atexit.register
def _join() -> None:
    if os.getpid() != _FIRST:
        time.sleep(600)


class Lingering(nn.Module):
    """The identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x
