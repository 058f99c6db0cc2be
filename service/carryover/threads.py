"""Long-running work, in turns with others or in a native thread, which lets them run while it releases the GIL."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar, cast

import gevent
from gevent.event import AsyncResult
from gevent.hub import get_hub
from gevent.threadpool import ThreadPool

_MOMENT = 1e-6

T = TypeVar("T")


def pause() -> None:
    """Let others run, those included for whom something arrives now: `sleep(0)` would not look for that."""
    gevent.sleep(_MOMENT)


def in_turns(items: Iterable[T], at_a_time: int = 64) -> Iterator[T]:
    """Yield items; after every so many of them, what else is ready on the event loop runs."""
    for number, item in enumerate(items, 1):
        yield item
        if number % at_a_time == 0:
            pause()


class SingleFlight(Generic[T]):
    """Work that is done once for all who want the same of it while it is being done, or were woken before it was."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, AsyncResult[T]] = {}

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises: that of another caller with this key, if one runs."""
        flight = self._flights.get(key)
        if flight is not None:
            return cast("T", flight.get())
        flight = self._flights[key] = AsyncResult()
        try:
            value = work()
            flight.set(value)
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            get_hub().loop.run_callback(self._flights.pop, key)  # after the callbacks that wake others
        return value


def run_in_thread(work: Callable[[], T], seconds: float | None = None, ended: Callable[[], None] | None = None) -> T:
    """Return what `work` returns, or raise what it raises; gevent by itself would print that as well.

    `ended` is called in the hub when `work` has ended, even if nobody waits for it any more.

    Raises:
        TimeoutError: it takes longer than this many seconds. It cannot be stopped, and goes on.

    """
    pool = get_hub().threadpool
    result = pool.spawn(_outcome, work)
    if ended is not None:
        result.rawlink(lambda _: ended())
    outcome: tuple[T, None] | tuple[None, Exception] | None = result.wait(seconds)
    if outcome is None:
        # As many threads as before are left for others.
        pool.maxsize += 1
        result.rawlink(lambda _: _shrink(pool))
        raise TimeoutError
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _shrink(pool: ThreadPool) -> None:
    pool.maxsize -= 1


def _outcome(work: Callable[[], T]) -> tuple[T, None] | tuple[None, Exception]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - raised in the greenlet that waits
        return None, error
