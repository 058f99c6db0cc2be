"""The record of a session, as it lies in Redis: a header of 45 bytes, then the state.

| offset | bytes | what |
|--------|-------|------|
| 0      | 1     | format: 1 a session; 0 a tombstone, which ends here |
| 1      | 8     | nonce of the commit that wrote this record, random |
| 9      | 8     | step |
| 17     | 8     | created, milliseconds since 1970 |
| 25     | 4     | ttl, seconds |
| 29     | 16    | fingerprint |
| 45     |       | state: the raw bytes of the state buffers |

Numbers are little-endian. The header is what a commit compares: the nonce makes it differ after every write, so a
session that was deleted and made again cannot be taken for the one that was read.

When the session was last used and when it ends stand in the key's own expiry, which runs `GRACE` longer than the
session: a record in its last `GRACE` milliseconds is one that has expired.
"""

import secrets
import struct
import time
from dataclasses import dataclass

from service.errors import StoreUnavailableError

_HEADER = struct.Struct("<B8sQQI16s")
HEADER_BYTES = _HEADER.size
SESSION = 1
TOMBSTONE = b"\x00"
GRACE = 24 * 3600 * 1000
"""How long a session that has ended is remembered, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Record:
    """A session's record.

    `header` is its first `HEADER_BYTES` as they lie in Redis, `created` in milliseconds since 1970, `ttl` in seconds.
    """

    header: bytes
    step: int
    created: int
    ttl: int
    fingerprint: bytes
    state: bytes

    @classmethod
    def new(cls, fingerprint: bytes, state: bytes, ttl: int) -> "Record":
        """Return the record of a session that begins now, at step 0."""
        return _record(0, time.time_ns() // 1_000_000, ttl, fingerprint, state)

    @classmethod
    def parse(cls, data: bytes) -> "Record":
        """Read a record's bytes."""
        if data[0] != SESSION or len(data) < HEADER_BYTES:
            raise StoreUnavailableError("a record in Redis is of a format that this version of the service cannot read")
        _, _, step, created, ttl, fingerprint = _HEADER.unpack_from(data)
        return cls(data[:HEADER_BYTES], step, created, ttl, fingerprint, data[HEADER_BYTES:])

    def advanced(self, steps: int, state: bytes) -> "Record":
        """Return the record that follows after `steps` steps, with another nonce."""
        return _record(self.step + steps, self.created, self.ttl, self.fingerprint, state)

    @property
    def data(self) -> bytes:
        """The bytes of the whole record."""
        return self.header + self.state


def _record(step: int, created: int, ttl: int, fingerprint: bytes, state: bytes) -> Record:
    header = _HEADER.pack(SESSION, secrets.token_bytes(8), step, created, ttl, fingerprint)
    return Record(header, step, created, ttl, fingerprint, state)
