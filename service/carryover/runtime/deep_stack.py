"""Calling torch where it may raise: on a stack that is deeper than torch looks.

An error that torch raises notes the innermost 65 frames of the C stack (c10/util/Backtrace.cpp). A greenlet's own
frames may be fewer; what lies below was left there by whichever greenlets have run meanwhile, and to take that for
frames crashes the process.
"""

from collections.abc import Callable, Iterator
from functools import partial, wraps
from itertools import repeat
from threading import get_ident
from typing import Any, ParamSpec, TypeVar, cast

FRAMES = 65

P = ParamSpec("P")
T = TypeVar("T")

_calls: dict[int, Callable[[], object]] = {}
"""What a thread, or greenlet, is about to call on the way down; no other one runs meanwhile."""


def deep(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function run with at least `FRAMES` frames of its own greenlet below it; this takes about 1 µs."""

    @wraps(function)
    def called(*arguments: P.args, **named: P.kwargs) -> T:
        _calls[get_ident()] = partial(function, *arguments, **named)
        return cast(tuple[T], next(_bottom))[0]

    return called


def _call(_: None) -> tuple[object]:
    return (_calls.pop(get_ident())(),)


def _nested(levels: int) -> Iterator[Any]:
    """Return an iterator whose `next` descends as many frames of C; it keeps no state, so all may use it at once."""
    iterator: Iterator[Any] = map(_call, repeat(None))
    for _ in range(levels):
        iterator = filter(None, iterator)
    return iterator


_bottom = _nested(FRAMES)
