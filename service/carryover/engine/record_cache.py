"""The records that this worker committed last, so that a step that goes on from one need not read it first.

Only sessions whose steps all come to this worker are served from it, such as those of a client that keeps its
connection. A session that several workers step is read each time, and so is every one for a while after a record was
out of date: one that another worker has replaced costs a forward and a conflict, which is more than to read it.

Why no promise changes:

- A record from here takes the place of one that was read, and no more. The commit compares it with what Redis holds, as
  it does with any other: it is written only if that is this very record still, and has not expired.
- What a step gave is told only once it is committed: then the record was what Redis held. An error is told only if a
  read after it finds this very record. Whatever else comes of a record that is out of date is run again, from Redis.
- Only plain steps are served: without an idempotency key, a condition or a rate, and not the last one of their session.
- A record is taken out when a step starts from it, and kept again when that is committed. No step starts from one whose
  commit failed, or of which it is not known what became.
- It is the memory of one process. After a restart or a reload it is empty.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from carryover.store import Record

STEADY = 8
"""After so many steps of a session in a row that found it as this worker had left it, it is served from here."""
DOUBTS = 32
"""After one that was out of date, so many sessions in a row must be found as they were left until any is served."""
MOST_BYTES = 8 * 1024 * 1024
"""What all records may take; the session that was stepped longest ago is forgotten first."""
_OVERHEAD = 1024
"""About what an entry takes beside the state, in bytes."""


class Holder(Protocol):
    """A session in a batch: its `key`, the record `after` it, and how many steps in a row found it as it was left."""

    key: str
    after: Record | None
    steady: int


class RecordCache:
    """Records by the key of their session."""

    def __init__(self) -> None:
        # Each with how many steps in a row found it; the one that was kept last is at the end.
        self._entries: OrderedDict[str, tuple[Record, int]] = OrderedDict()
        self._bytes = 0
        self._doubts = 0

    def __len__(self) -> int:
        """Return how many records there are."""
        return len(self._entries)

    def serves(self, key: str) -> bool:
        """Return whether a session may be stepped without reading it."""
        entry = self._entries.get(key)
        return entry is not None and entry[1] >= STEADY and not self._doubts

    def take(self, holder: Holder) -> Record | None:
        """Return the record of a session, which is no longer here then."""
        entry = self._entries.pop(holder.key, None)
        if entry is None:
            return None
        record, steady = entry
        self._bytes -= _size(record)
        holder.steady = steady + 1
        return record

    def compare(self, holder: Holder, read: Record | None) -> None:
        """Note whether a session that was read is as this worker had left it."""
        left = self.take(holder)
        same = left is not None and read is not None and left.header == read.header
        if not same:
            holder.steady = 0
        if self._doubts and left is not None:
            self._doubts = self._doubts - 1 if same else DOUBTS

    def doubt(self) -> None:
        """Note that a commit from here has failed: clients may have moved to other workers, or Redis may be lost."""
        self._doubts = DOUBTS

    def keep(self, holders: Sequence[Holder]) -> None:
        """Keep the records of sessions that were committed just now, as what Redis holds."""
        entries = self._entries
        for holder in holders:
            record = holder.after
            if record is not None and (size := _size(record)) <= MOST_BYTES:
                if earlier := entries.pop(holder.key, None):  # of another batch, which ran at the same time
                    self._bytes -= _size(earlier[0])
                record.header = record.written
                entries[holder.key] = record, holder.steady
                self._bytes += size
        while self._bytes > MOST_BYTES:
            _, (oldest, _) = entries.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(record: Record) -> int:
    return len(record.state) + _OVERHEAD
