"""Following sessions: whatever commits, in this worker or another, is noticed by looking at the records.

One greenlet of a worker looks at all sessions that are followed there, while there are any. Redis' own messages would
not do: they take rights of their own, a failover loses them, and in a cluster each node has its own. The records lose
nothing: steps count up, so that those between two looks are known.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import gevent

from carryover.errors import StoreUnavailableError
from carryover.store import Record, Store
from carryover.store.record import DELETED

INTERVAL = 0.05
"""Seconds between two looks; more where a look takes more than the share of them below."""
_SHARE = 20
_AT_ONCE = 256
"""Sessions that are read in one round trip."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a session is: at a step of an edition of the session that was created then, in milliseconds since 1970."""

    created: int
    edition: int
    step: int

    @classmethod
    def of(cls, record: Record) -> "Position":
        """Return where a record is."""
        return cls(record.created, record.edition, record.step)

    def follows(self, other: "Position") -> bool:
        """Whether one gets here from another position, or from here, by steps alone."""
        return (self.created, self.edition) == (other.created, other.edition) and self.step >= other.step


class Follower:
    """One who follows a session, from `record` on; `notify` is called when there is another one."""

    def __init__(self, record: Record, notify: Callable[[], None]) -> None:
        self._record = record
        self._notify = notify
        self._new = True

    def take(self) -> Record | None:
        """Return the record as it was last seen, None if it was taken before."""
        if not self._new:
            return None
        self._new = False
        return self._record

    def see(self, record: Record) -> None:
        """Take note of what a look has found."""
        before = self._record
        if record.header != before.header or record.live != before.live:
            self._record, self._new = record, True
            self._notify()


class Followers:
    """Those who follow sessions in one worker, by the sessions' keys in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of: dict[str, set[Follower]] = {}
        self._looking = False

    def add(self, key: str, follower: Follower) -> None:
        """Look at a session from now on, for `follower`."""
        self._of.setdefault(key, set()).add(follower)
        if not self._looking:
            self._looking = True
            gevent.spawn(self._look)

    def remove(self, key: str, follower: Follower) -> None:
        """Look no longer."""
        self._of[key].discard(follower)
        if not self._of[key]:
            del self._of[key]

    def _look(self) -> None:
        while self._of:
            started = time.monotonic()
            keys = list(self._of)
            with suppress(StoreUnavailableError):
                for start in range(0, len(keys), _AT_ONCE):
                    self._look_at(keys[start : start + _AT_ONCE])
            gevent.sleep(max(INTERVAL, _SHARE * (time.monotonic() - started)))
        self._looking = False

    def _look_at(self, keys: list[str]) -> None:
        """Look at some sessions; what cannot be read now is looked at the next time, as is a store that is lost."""
        if self._store.health.reason is not None:
            return
        for key, found in zip(keys, self._store.heads(keys), strict=True):
            if not isinstance(found, StoreUnavailableError):
                for follower in self._of.get(key, ()):
                    follower.see(DELETED if found is None else found)
