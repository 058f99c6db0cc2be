"""The record of a session in Redis: a header of 45 bytes, then the state.

| offset | bytes | description |
|--------|-------|-------------|
| 0      | 1     | format: 1 a session; 2 an expired session without its state; 0 a tombstone, only a nonce follows |
| 1      | 8     | nonce of the commit that wrote this record, random |
| 9      | 8     | step |
| 17     | 8     | created, milliseconds since 1970 |
| 25     | 4     | ttl, seconds |
| 29     | 8     | fingerprint of the model version |
| 37     | 8     | fingerprint of the state's layout |
| 45     |       | the state buffers |

Numbers are little-endian. A commit compares the header: the nonce makes it differ after every write, so a session that
was deleted and created again cannot be mistaken for the one that was read.

The time of the last use and the time of expiry follow from the TTL of the key, which is `GRACE` longer than that of the
session: a record in its last `GRACE` milliseconds is an expired session.
"""

import os
import random
import struct
import time
from dataclasses import dataclass

from carryover.errors import StoreUnavailableError

_HEADER = struct.Struct("<BQQQI8s8s")
_TOMBSTONE = struct.Struct("<BQ")
HEADER_BYTES = _HEADER.size
SESSION = 1
EXPIRED = 2
TOMBSTONE = 0
GRACE = 24 * 3600 * 1000
"""How long the end of an expired or deleted session is remembered, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Record:
    """A session's record: `created` in milliseconds since 1970, `ttl` in seconds, fingerprints of 8 bytes."""

    step: int
    created: int
    ttl: int
    fingerprint: bytes
    layout: bytes
    state: bytes

    @classmethod
    def new(cls, fingerprint: bytes, layout: bytes, state: bytes, ttl: int, step: int = 0) -> "Record":
        """Return the record of a session that is created now."""
        return cls(step, time.time_ns() // 1_000_000, ttl, fingerprint, layout, state)

    def advanced(self, step: int, state: bytes) -> "Record":
        """Return the record of the same session at another step."""
        return Record(step, self.created, self.ttl, self.fingerprint, self.layout, state)

    def bound(self, fingerprint: bytes) -> "Record":
        """Return the record of the same session, bound to a version."""
        return Record(self.step, self.created, self.ttl, fingerprint, self.layout, self.state)

    def data(self) -> bytes:
        """Return the bytes to write, with a nonce of their own."""
        head = _HEADER.pack(SESSION, _nonce(), self.step, self.created, self.ttl, self.fingerprint, self.layout)
        return head + self.state


@dataclass(frozen=True, slots=True)
class Stored:
    """What a key holds: `header` as it lies in Redis, and the record; None of a session that was deleted.

    `remaining` is the time until the session expires in milliseconds, 0 or less where it has, where that was asked for.
    """

    header: bytes
    record: Record | None
    remaining: int = 1

    @property
    def live(self) -> bool:
        """Whether the session can go on."""
        return self.record is not None and self.remaining > 0


def tombstone() -> bytes:
    """Return the bytes that take the place of a deleted session, with a nonce of their own."""
    return _TOMBSTONE.pack(TOMBSTONE, _nonce())


# A generator that no model can seed and no two workers share: the operating system seeds it in each process.
_random = random.Random()  # noqa: S311 - the numbers need not be secret
os.register_at_fork(after_in_child=_random.seed)


def _nonce() -> int:
    """Return a number that no other commit uses."""
    return _random.getrandbits(64)


def parse(data: bytes, remaining: int = 1) -> Stored:
    """Read what a key holds."""
    if data[:1] == bytes((TOMBSTONE,)):
        return Stored(data, None, 0)
    if len(data) < HEADER_BYTES or data[0] not in (SESSION, EXPIRED):
        raise StoreUnavailableError("a record in Redis is of a format that this version of the service cannot read")
    _, _, step, created, ttl, fingerprint, layout = _HEADER.unpack_from(data)
    record = Record(step, created, ttl, fingerprint, layout, data[HEADER_BYTES:])
    return Stored(data[:HEADER_BYTES], record, remaining if data[0] == SESSION else 0)
