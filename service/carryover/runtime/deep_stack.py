"""Calling torch where it may raise: on a stack that is deeper than torch looks.

An error that torch raises notes the innermost 65 frames of the C stack (c10/util/Backtrace.cpp). A greenlet's own
frames may be fewer; what lies below was left there by whichever greenlets have run meanwhile, and to take that for
frames crashes the process.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

FRAMES = 65
_FRAMES_A_LEVEL = 3
"""At least: `next`, the map's own, and those of the Python function that it calls."""

P = ParamSpec("P")
T = TypeVar("T")


def deep(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function run with at least `FRAMES` frames of its own greenlet below it; this takes a few microseconds."""

    @wraps(function)
    def called(*arguments: P.args, **named: P.kwargs) -> T:
        return _down(FRAMES // _FRAMES_A_LEVEL + 1, partial(function, *arguments, **named))

    return called


def _down(levels: int, call: Callable[[], T]) -> T:
    return next(map(partial(_down, levels - 1), (call,))) if levels else call()
