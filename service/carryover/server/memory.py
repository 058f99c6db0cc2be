"""How the C library hands out memory, and gives it back."""

import ctypes
from contextlib import suppress

import gevent

from carryover.threads import run_in_thread

TRIM_SECONDS = 30.0
"""Between two times that memory is given back."""
_M_ARENA_MAX = -8
_ARENAS = 2

_library = ctypes.CDLL(None)


def limit_arenas() -> None:
    """Have all threads share two arenas, where glibc would give them up to eight for each CPU.

    Forwards run in native threads, and what one of them has freed stays in its arena: with many, a worker grows to
    several times of what it uses. Python's threads take turns, so that they hardly wait for an arena.

    Source: mallopt(3).
    """
    with suppress(AttributeError):  # another C library
        _library.mallopt(_M_ARENA_MAX, _ARENAS)


def trim() -> None:
    """Give the memory back that is free, to the operating system; glibc keeps what large requests have left.

    That is up to twice the largest block that was ever freed, at the end of each arena, and all holes in them. It takes
    a few milliseconds.

    Source: malloc_trim(3), and `M_TRIM_THRESHOLD` in mallopt(3).
    """
    with suppress(AttributeError):  # another C library
        _library.malloc_trim(0)


def trim_forever() -> None:
    """Give memory back every `TRIM_SECONDS`; never returns."""
    while True:
        gevent.sleep(TRIM_SECONDS)
        run_in_thread(trim)
