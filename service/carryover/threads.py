"""Long-running work in a native thread: the worker keeps serving while the work releases the GIL."""

from collections.abc import Callable
from typing import TypeVar

from gevent.hub import get_hub

T = TypeVar("T")


def run_in_thread(work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises; gevent by itself would print that as well."""
    outcome: tuple[T, None] | tuple[None, Exception] = get_hub().threadpool.apply(_outcome, (work,))
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _outcome(work: Callable[[], T]) -> tuple[T, None] | tuple[None, Exception]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - raised in the greenlet that waits
        return None, error
