"""What the forwards of a version have taken, and what follows for the next: where it runs, and beside which others."""

import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from carryover.runtime.version import Invocation

LONG = 0.005
"""Seconds that a forward may be expected to hold up the worker; one that takes longer runs in a native thread."""
HELD = 0.05
"""Seconds that no forward may hold up the worker, nor other calls of its version."""
_WARY = 64
"""How many forwards in a row must take less than `HELD`, after one that took more, to run in place again."""
_ALWAYS = sys.maxsize
SMALL = 2**14
"""Elements of the inputs up to which a call is taken for quick until any of its version was not."""

_state = attrgetter("state")

Size = tuple[int, int]
"""The number of elements of the inputs, and of bytes of the states; their bit lengths, where it is a magnitude."""


class Costs:
    """The seconds that forwards have taken, by the magnitude of their size; a slow one counts at once, a fast by half.

    `any_held` says that one has held up others. Forwards of a version may end in two threads at once: what one of them
    learned may then be lost, and is learned again.
    """

    def __init__(self) -> None:
        self._seconds: dict[Size, float] = {}
        self._by_elements: dict[int, float] = {}
        # The smallest size that was very long, and how many short ones it takes until in place is safe again.
        self._wary_from: Size | None = None
        self._wary = 0
        self.any_held = False

    def learn(self, size: Size, seconds: float, *, in_place: bool) -> None:
        """Note what a forward took."""
        _note(self._seconds, size, seconds)
        _note(self._by_elements, size[0], seconds)
        if seconds > HELD:
            self.any_held = True
            # In place although a short one was expected: its time depends on more than its size.
            self._wary = _ALWAYS if in_place else max(self._wary, _WARY)
            wary = self._wary_from or size
            self._wary_from = min(size[0], wary[0]), min(size[1], wary[1])
        elif self._wary_from is not None and _covers(size, self._wary_from):
            self._wary -= 1
            if self._wary <= 0:
                self._wary_from = None

    def in_place(self, size: Size) -> bool:
        """Whether a forward may run on the event loop: one of its size, or of a larger one, was short before."""
        if self._wary_from is not None and _covers(size, self._wary_from):
            return False
        seconds = self._seconds.get(size)
        if seconds is not None:
            return seconds < LONG
        return any(_covers(seen, size) and took < LONG for seen, took in [*self._seconds.items()])

    def aside(self, elements: int) -> bool:
        """Whether a call whose inputs have so many elements is to run beside the others, so that they do not wait."""
        magnitude = elements.bit_length()
        seconds = self._by_elements.get(magnitude)
        if seconds is not None:
            return seconds > HELD
        known = [*self._by_elements.items()]
        if any(seen > magnitude and took <= HELD for seen, took in known):
            return False
        return elements > SMALL or any(seen < magnitude and took > HELD for seen, took in known)


def elements_of(calls: Sequence[Invocation]) -> int:
    """Return how many elements the inputs of some calls have."""
    elements = 0
    for call in calls:
        for array in call.inputs.values():
            elements += array.size
    return elements


def size_of(calls: Sequence[Invocation]) -> Size:
    """Return how many elements the inputs of a batch have, and how many bytes its states."""
    return elements_of(calls), sum(map(len, map(_state, calls)))


def magnitude(size: Size) -> Size:
    """Return the bit lengths of a size."""
    return size[0].bit_length(), size[1].bit_length()


def _note(known: dict[Any, float], key: Any, seconds: float) -> None:
    before = known.get(key, seconds)
    known[key] = seconds if seconds > before else (before + seconds) / 2


def _covers(larger: Size, size: Size) -> bool:
    return larger[0] >= size[0] and larger[1] >= size[1]
