"""The record of a session in Redis: a header of 53 bytes, then the state.

| offset | bytes | description |
|--------|-------|-------------|
| 0      | 1     | format: 3 a session; 4 an expired session without its state; 0 a tombstone, only a nonce follows |
| 1      | 8     | nonce of the commit that wrote this record: two bytes of the edition, six that are random |
| 9      | 8     | step |
| 17     | 8     | created, milliseconds since 1970 |
| 25     | 4     | ttl, seconds |
| 29     | 8     | fingerprint of the model version |
| 37     | 8     | fingerprint of the state's layout |
| 45     | 8     | number of the model version; 0 if it is not known |
| 53     |       | the state buffers |

Formats 1 and 2 are 3 and 4 without the number. Earlier versions of the service wrote them; they are still read.

Numbers are little-endian. A commit compares the header: the nonce makes it differ after every write, so a session that
was deleted and created again cannot be mistaken for the one that was read. The edition stays the same from step to step
and is another one after whatever else is written: between two records of one creation time and edition there are only
steps.

The time of the last use and the time of expiry follow from the TTL of the key, which is `GRACE` longer than that of the
session: a record in its last `GRACE` milliseconds is an expired session.
"""

import os
import random
import struct
import time
from dataclasses import dataclass

from carryover.errors import DamagedRecordError

_HEADER = struct.Struct("<BQQQI8s8sQ")
_EARLIER = struct.Struct("<BQQQI8s8s")
_TOMBSTONE = struct.Struct("<BQ")
HEADER_BYTES = _HEADER.size
SESSION = 3
EXPIRED = 4
TOMBSTONE = 0
_KINDS = {bytes((SESSION,)): _HEADER, bytes((EXPIRED,)): _HEADER, b"\1": _EARLIER, b"\2": _EARLIER}
_LARGEST = 2**64 - 1
_EDITION_BITS = 16
_EDITIONS = 2**_EDITION_BITS
GRACE = 24 * 3600 * 1000
"""How long the end of an expired or deleted session is remembered, in milliseconds."""


@dataclass(slots=True, eq=False)
class Record:
    """What a session's key holds.

    `created` is in milliseconds since 1970, `ttl` in seconds; fingerprints have 8 bytes. `version` is the number of the
    model version, 0 where it is not known. `kind` is SESSION, EXPIRED or TOMBSTONE. `header` is what was read, and what
    a commit compares; a record that was never stored has none. `remaining` is the time until the session expires in
    milliseconds, 0 or less where it has; 1 where that was not asked for. `edition` is as described above.
    """

    step: int
    created: int
    ttl: int
    fingerprint: bytes
    layout: bytes
    version: int
    state: bytes
    kind: int = SESSION
    header: bytes = b""
    remaining: int = 1
    edition: int = 0

    @classmethod
    def new(cls, fingerprint: bytes, layout: bytes, version: int, state: bytes, ttl: int) -> "Record":
        """Return the record of a session that is created now."""
        edition = _random.getrandbits(_EDITION_BITS)
        return cls(0, time.time_ns() // 1_000_000, ttl, fingerprint, layout, version, state, edition=edition)

    def replace(self) -> None:
        """Start another edition: what is written next is no step from here."""
        self.edition = (self.edition + 1) % _EDITIONS

    @property
    def live(self) -> bool:
        """Whether the session was neither deleted nor has it expired."""
        return self.kind == SESSION and self.remaining > 0

    def data(self) -> bytes:
        """Return the bytes to write, with a nonce of their own."""
        version = min(self.version, _LARGEST)
        head = _HEADER.pack(
            SESSION, _nonce() | self.edition, self.step, self.created, self.ttl, self.fingerprint, self.layout, version
        )
        return head + self.state


DELETED = Record(0, 0, 0, b"", b"", 0, b"", TOMBSTONE, b"", 0)
"""What a session is once it was deleted, and before that is written."""


def tombstone() -> bytes:
    """Return the bytes that replace a deleted session, with a nonce of their own."""
    return _TOMBSTONE.pack(TOMBSTONE, _nonce())


# A generator that no model can seed and no two workers share: the operating system seeds it in each process.
_random = random.Random()  # noqa: S311 - the numbers need not be secret
os.register_at_fork(after_in_child=_random.seed)


def _nonce() -> int:
    """Return a number that no other commit uses, without an edition."""
    return _random.getrandbits(64 - _EDITION_BITS) << _EDITION_BITS


def parse(data: bytes, remaining: int = 1) -> Record:
    """Read what a key holds.

    Raises:
        DamagedRecordError: it is none of the formats above, or cut short.

    """
    if data[:1] == bytes((TOMBSTONE,)):
        return Record(0, 0, 0, b"", b"", 0, b"", TOMBSTONE, data, 0)
    format_ = _KINDS.get(data[:1])
    if format_ is None:
        raise DamagedRecordError("a record in Redis is of a format that this version of the service cannot read")
    if len(data) < format_.size:
        raise DamagedRecordError(
            f"a record in Redis is damaged: it has {len(data)} bytes, expected at least {format_.size}"
        )
    header, state = data[: format_.size], data[format_.size :]
    if format_ is _HEADER:
        kind, nonce, step, created, ttl, fingerprint, layout, version = _HEADER.unpack(header)
    else:
        kind, nonce, step, created, ttl, fingerprint, layout = _EARLIER.unpack(header)
        kind, version = kind + SESSION - 1, 0
    edition = nonce % _EDITIONS
    return Record(step, created, ttl, fingerprint, layout, version, state, kind, header, remaining, edition)
