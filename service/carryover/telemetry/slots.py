"""Whole numbers in memory that is shared with the workers forked later.

Each worker adds to its own slot, so that none waits for another, and a reader sums the slots. A slot outlives its
worker: the next worker continues to count in it.
"""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

SLOTS = 64
"""Workers that may run at the same time, the old ones of a reload included, before two share a slot."""


class Slots:
    """`width` numbers for each worker; those of this process are in `own`."""

    def __init__(self, width: int, slot: int = 0) -> None:
        # In front of each slot stands whether it was ever used: an unused one is not read, and takes no memory.
        self._width = width + 1
        self._memory = mmap.mmap(-1, SLOTS * self._width * 8)
        self._all = memoryview(self._memory).cast("q")
        self.claim(slot)

    def claim(self, slot: int) -> None:
        """Add to this slot from now on."""
        start = slot % SLOTS * self._width
        self._all[start] = 1
        self.own = self._all[start + 1 : start + self._width]

    def read(self) -> npt.NDArray[np.int64]:
        """Return a row of numbers for each slot that was used."""
        rows: npt.NDArray[Any] = np.frombuffer(self._memory, np.int64).reshape(SLOTS, self._width)
        return rows[rows[:, 0] > 0, 1:]

    def totals(self) -> list[int]:
        """Return the sums over all slots."""
        sums: list[int] = self.read().sum(axis=0).tolist()
        return sums
