"""Waiting for conditions, and doing things concurrently."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

T = TypeVar("T")
U = TypeVar("U")

PATIENCE = 60.0
"""Seconds after which a wait fails; a machine may be busy."""


def eventually(
    what: str, look: Callable[[], T | Literal[False] | None], patience: float = PATIENCE, interval: float = 0.01
) -> T:
    """Return the first truthy value that `look` gives.

    `interval` is the time between the first two looks, in seconds; it grows to five times that, as a look takes CPU
    time from what is waited for.
    """
    deadline, longest = time.monotonic() + patience, 5 * interval
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(interval)
        interval = min(1.2 * interval, longest)
    raise AssertionError(f"waited {patience:.0f} s in vain for: {what}")


def together(work: Callable[[U], T], items: list[U]) -> list[T]:
    """Call `work` with each item, each in a thread of its own, and return the results in order."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items))


def at_once(*works: Callable[[], T]) -> list[T]:
    """Call each function in a thread of its own, and return the results in order."""
    return together(lambda work: work(), list(works))
