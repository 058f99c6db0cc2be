"""Finding a session, and the version that it belongs to."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from carryover.errors import CarryoverError, DamagedRecordError, ForeignStateError, GoneError, NotFoundError
from carryover.runtime.repository import Model
from carryover.runtime.version import ModelVersion
from carryover.store import Record
from carryover.store.record import TOMBSTONE


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it is now; times in milliseconds since 1970, `ttl` in seconds."""

    name: str
    model: Model
    version: ModelVersion
    step: int
    created: int
    last_used: int
    expires: int
    ttl: int
    state: bytes

    @classmethod
    def of(cls, model: Model, name: str, version: ModelVersion, record: Record, remaining: int) -> "Session":
        """Return the session that a record holds, `remaining` milliseconds before it expires."""
        expires = time.time_ns() // 1_000_000 + remaining
        return cls(
            name=name,
            model=model,
            version=version,
            step=record.step,
            created=record.created,
            last_used=expires - record.ttl * 1000,
            expires=expires,
            ttl=record.ttl,
            state=record.state,
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """A session in a list: its record, without the state, of which `size` is that in bytes; `expires` as above."""

    name: str
    record: Record
    size: int
    expires: int


@dataclass(slots=True)
class Tally:
    """How many sessions there are, and the bytes of their states."""

    sessions: int = 0
    bytes: int = 0

    def add(self, found: Iterable[Listed]) -> None:
        """Count these as well."""
        for one in found:
            self.sessions += 1
            self.bytes += one.size


def served_version(model: Model, session: str, record: Record, *, migrate: bool = False) -> ModelVersion:
    """Return the version that a session goes on with: its own or, to `migrate`, the default one, unless it is lower.

    Raises:
        ForeignStateError: its own is not served, and it may not migrate or its state would not fit.
        DamagedRecordError: its state was cut short.

    """
    version = model.of_fingerprint(record.fingerprint)
    if version is None:
        version = _migrated(model, session, record, migrate=migrate)
    layout = version.layout
    if len(record.state) != layout.nbytes and not layout.complete(record.state):
        raise DamagedRecordError(
            f"the record of session {session!r} of model {model.name!r} in Redis is damaged: its state of "
            f"{len(record.state)} bytes is cut short or has changed; the session can be deleted, not continued"
        )
    return version


def _migrated(model: Model, session: str, record: Record, *, migrate: bool) -> ModelVersion:
    default = model.default
    fits, rises = record.layout == default.layout_fingerprint, record.version <= default.number
    if migrate and fits and rises:
        return default
    if not rises:
        way = f"it has been on version {record.version}, and no session goes back to a lower one"
    elif fits:
        way = (
            f"its state has the names, shapes and datatypes of version {default.version}: ?migrate=true moves it there"
        )
    else:
        way = f"its state has other names, shapes or datatypes than version {default.version} and cannot migrate"
    raise ForeignStateError(
        f"session {session!r} of model {model.name!r} belongs to fingerprint {record.fingerprint.hex()}, which is not "
        f"that of version {' or '.join(model.versions)}; {way}"
    )


def missing(model: Model, session: str, record: Record | None) -> CarryoverError:
    """Return the error that there is no session, or none any more."""
    if record is None:
        return NotFoundError(
            f"model {model.name!r} has no session {session!r}; create it with POST /v1/models/{model.name}/sessions, "
            "or with its first step: :predict?create=true or :stream?create=true"
        )
    return GoneError(
        f"session {session!r} of model {model.name!r} has expired or was deleted", deleted=record.kind == TOMBSTONE
    )
