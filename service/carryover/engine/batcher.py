"""Batching without a timer: whoever finds the processor idle takes everything that is queued."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import gevent
from gevent.hub import Waiter, get_hub

from carryover.errors import OverloadedError

_AT_ONCE = 2
"""libev's highest priority: what waits until nothing of that priority happens does not wait for any requests."""


class Item(Protocol):
    """A unit of work; the processor sets `finished` once it has succeeded or failed."""

    finished: bool


T = TypeVar("T", bound=Item)


class _Entry(Generic[T]):
    """What one caller queued, and where it waits."""

    __slots__ = ("abandoned", "error", "items", "leads", "waiter")

    def __init__(self, items: Sequence[T]) -> None:
        self.items = items
        self.waiter: Waiter[None] = Waiter()
        self.leads = False
        self.abandoned = False
        self.error: BaseException | None = None

    def finished(self) -> bool:
        if self.error is None:
            for item in self.items:
                if not item.finished:
                    return False
        return True


class Batcher(Generic[T]):
    """Runs the callers' items through `process`, as many at a time as are there.

    The first caller to find nothing running leads: it takes all that is queued, processes it in its own greenlet and
    wakes the others; then the next one leads. Items that `process` leaves unfinished go first in the next batch.

    `limit` is the number of items of a batch (a caller's items are never parted), `capacity` that of callers that may
    wait.
    """

    def __init__(self, process: Callable[[list[T]], None], limit: int, capacity: int) -> None:
        self._process = process
        self._limit = limit
        self._capacity = capacity
        self._queue: deque[_Entry[T]] = deque()
        self._busy = False

    @property
    def waiting(self) -> int:
        """How many callers wait for a batch."""
        return len(self._queue)

    def run(self, items: Sequence[T]) -> None:
        """Return when all the items are finished.

        Raises:
            OverloadedError: too many wait already; none of the items was touched.

        """
        if len(self._queue) >= self._capacity:
            raise OverloadedError(f"more than {self._capacity} requests wait for this model; retry in a second")
        entry = _Entry(items)
        self._queue.append(entry)
        if self._busy:
            self._wait(entry)
        else:
            self._busy = True
            entry.leads = True
        if entry.leads:
            self._lead(entry)
        if entry.error is not None:
            raise entry.error

    def _wait(self, entry: _Entry[T]) -> None:
        try:
            entry.waiter.get()
        except BaseException:
            # The greenlet is being killed. Its items stay queued; they must not be left without a leader.
            entry.abandoned = True
            if entry.leads:
                self._hand_over()
            raise

    def _lead(self, own: _Entry[T]) -> None:
        try:
            self._gather()
            while not own.finished():
                self._work(self._take())
        finally:
            self._hand_over()

    def _gather(self) -> None:
        """Let the requests that have arrived join the batch: turn the event loop for as long as each turn brings some.

        A turn is one look for what has arrived, and a run of all that waited for it.
        """
        count = 0
        while count < len(self._queue) < self._limit:
            count = len(self._queue)
            gevent.idle(_AT_ONCE)
            gevent.sleep(0)

    def _take(self) -> list[_Entry[T]]:
        batch = [self._queue.popleft()]
        count = len(batch[0].items)
        while self._queue and count + len(self._queue[0].items) <= self._limit:
            batch.append(self._queue.popleft())
            count += len(batch[-1].items)
        return batch

    def _work(self, batch: list[_Entry[T]]) -> None:
        error: BaseException | None = None
        try:
            self._process([item for entry in batch for item in entry.items if not item.finished])
        except BaseException as raised:
            error = raised
            raise
        finally:
            wake = get_hub().loop.run_callback
            for entry in reversed(batch):
                if error is not None:
                    entry.error = RuntimeError("the batch that held this request was given up")
                    entry.error.__cause__ = error
                if entry.finished():
                    if not entry.leads:
                        wake(entry.waiter.switch, None)
                else:
                    self._queue.appendleft(entry)

    def _hand_over(self) -> None:
        for entry in self._queue:
            if not entry.abandoned and not entry.leads:
                entry.leads = True
                get_hub().loop.run_callback(entry.waiter.switch, None)
                return
        self._busy = False
