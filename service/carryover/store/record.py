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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

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
_FINGERPRINT = slice(29, 37)
GRACE = 24 * 3600 * 1000
"""How long the end of an expired or deleted session is remembered, in milliseconds."""

Written = tuple[bytes, bytes, int]
"""A record that goes on from another: the header of that, the new record, and when its key expires, in milliseconds."""


@dataclass(slots=True, eq=False)
class Record:
    """What a session's key holds.

    `created` is in milliseconds since 1970, `ttl` in seconds; fingerprints have 8 bytes. `version` is the number of the
    model version, 0 where it is not known. `kind` is SESSION, EXPIRED or TOMBSTONE. `header` is what was read, and what
    a commit compares; a record that was never stored has none. `remaining` is the time until the session expires in
    milliseconds, 0 or less where it has; 1 where that was not asked for. `edition` is as described above. `written` is
    the header that was made last, to be written.
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
    written: bytes = b""

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
        self.written = _HEADER.pack(
            SESSION, _nonce() | self.edition, self.step, self.created, self.ttl, self.fingerprint, self.layout, version
        )
        return self.written + self.state


class Records:
    """The records of live sessions of one model version with states of one size, as columns."""

    def __init__(self, data: bytes, count: int, width: int) -> None:
        self._data = data
        self._columns: Any = np.frombuffer(data, _columns(width), count)
        self._heads = [data[start : start + HEADER_BYTES] for start in range(0, count * width, width)]
        self.fingerprint = data[_FINGERPRINT]
        self.state_bytes = width - HEADER_BYTES

    @classmethod
    def of(cls, values: Sequence[object]) -> "Records | None":
        """Return what as many keys hold; None unless all are such records."""
        present = [value for value in values if isinstance(value, bytes)]
        widths = set(map(len, present))
        if len(present) != len(values) or len(widths) != 1 or (width := widths.pop()) < HEADER_BYTES:
            return None
        found = cls(b"".join(present), len(present), width)
        columns = found._columns
        same = (columns["kind"] == SESSION).all() and (columns["fingerprint"] == columns["fingerprint"][0]).all()
        return found if same else None

    def __len__(self) -> int:
        """Return how many sessions there are."""
        return len(self._heads)

    def states(self) -> bytes:
        """Return the state of one session after another."""
        data: bytes = self._columns["state"].tobytes()
        return data

    def advanced(self, version: int, states: bytes) -> tuple[list[int], list[Written]]:
        """Return the next step of each session, and what is to be written for it; `states` is of one after another."""
        count, data = len(self), bytearray(self._data)
        columns: Any = np.frombuffer(data, self._columns.dtype, count)  # a copy would lack what no field names
        nonces: Any = np.frombuffer(_random.randbytes(8 * count), "<u8")
        columns["nonce"] = nonces - nonces % _EDITIONS + columns["nonce"] % _EDITIONS
        columns["step"] += 1
        columns["version"] = min(version, _LARGEST)
        if states:
            columns["state"] = np.frombuffer(states, columns.dtype["state"])
        width = columns.dtype.itemsize
        records = [bytes(data[start : start + width]) for start in range(0, count * width, width)]
        expiries = [ttl * 1000 + GRACE for ttl in columns["ttl"].tolist()]
        return columns["step"].tolist(), list(zip(self._heads, records, expiries, strict=True))


@lru_cache
def _columns(width: int) -> "np.dtype[np.void]":
    """Return the type of a record of so many bytes; fields in the order of their places in the header."""
    fields = {
        "kind": ("u1", 0), "nonce": ("<u8", 1), "step": ("<u8", 9), "ttl": ("<u4", 25), "fingerprint": ("<u8", 29),
        "version": ("<u8", 45), "state": (f"V{width - HEADER_BYTES}", HEADER_BYTES),
    }  # fmt: skip
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype({"names": [*fields], "formats": formats, "offsets": offsets, "itemsize": width})


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


def nonce() -> bytes:
    """Return the bytes of such a number in a record, behind those of the edition."""
    return _random.randbytes(8 - _EDITION_BITS // 8)


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
