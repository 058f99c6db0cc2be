"""Following sessions: whatever commits, in this worker or another, is noticed by looking at the records.

One greenlet of a worker looks at all sessions that are followed there, while there are any. Redis' own messages would
not do: they take rights of their own, a failover loses them, and in a cluster each node has its own. The records lose
nothing: steps count up, so that those between two looks are known.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent

from carryover.errors import StoreUnavailableError
from carryover.store import Record, Store
from carryover.store.record import DELETED

INTERVAL = 0.05
"""Seconds between two looks; up to `_LONGEST` where looks would take more than one in `_SHARE` of them."""
_SHARE = 20
_LONGEST = 1.0
_AT_ONCE = 256
"""Sessions that are read in one round trip."""


log = logging.getLogger(__name__)


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
        if not _same(record, self._record):
            self._record, self._new = record, True
            self._notify()


@dataclass(slots=True)
class _Followed:
    """A session's followers, and the record that all of them have seen; None if one of them may not have."""

    followers: set[Follower]
    seen: Record | None = None

    def see(self, record: Record) -> None:
        if self.seen is None or not _same(record, self.seen):
            self.seen = record
            for follower in self.followers:
                follower.see(record)


class Followers:
    """Those who follow sessions in one worker, by the sessions' keys in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of: dict[str, _Followed] = {}
        self._looking = False

    def add(self, key: str, follower: Follower) -> None:
        """Look at a session from now on, for `follower`."""
        followed = self._of.setdefault(key, _Followed(set()))
        followed.followers.add(follower)
        followed.seen = None
        if not self._looking:
            self._looking = True
            gevent.spawn(self._look)

    def remove(self, key: str, follower: Follower) -> None:
        """Look no longer."""
        followers = self._of[key].followers
        followers.discard(follower)
        if not followers:
            del self._of[key]

    def _look(self) -> None:
        while self._of:
            started = time.monotonic()
            keys = list(self._of)
            try:
                for start in range(0, len(keys), _AT_ONCE):
                    self._look_at(keys[start : start + _AT_ONCE])
            except Exception:
                log.exception("looking at sessions that are followed failed")
            pause = _SHARE * (time.monotonic() - started)
            gevent.sleep(min(max(INTERVAL, pause), _LONGEST))
        self._looking = False

    def _look_at(self, keys: list[str]) -> None:
        """Look at some sessions; what cannot be read now is looked at the next time, as is a store that is lost."""
        if self._store.health.reason is not None:
            return
        for key, found in zip(keys, self._store.heads(keys), strict=True):
            followed = self._of.get(key)
            if followed is not None and not isinstance(found, StoreUnavailableError):
                followed.see(DELETED if found is None else found)


def _same(one: Record, other: Record) -> bool:
    return one.header == other.header and one.live == other.live
