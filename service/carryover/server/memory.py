"""How the C library hands out memory."""

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8
_ARENAS = 2


def limit_arenas() -> None:
    """Have all threads share two arenas, where glibc would give them up to eight for each CPU.

    Forwards run in native threads, and what one of them has freed stays in its arena: with many, a worker grows to
    several times of what it uses. Python's threads take turns, so that they hardly wait for an arena.

    Source: mallopt(3).
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
