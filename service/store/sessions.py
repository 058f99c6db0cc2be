"""The store: sessions by key, read together and committed together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from importlib.resources import files
from typing import Any, TypeVar

import redis
from redis import exceptions
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from service.errors import StoreUnavailableError
from service.store.record import GRACE, TOMBSTONE, Record

T = TypeVar("T")


class Outcome(IntEnum):
    """What became of a commit; the numbers are the script's."""

    GONE = -1
    CONFLICT = 0
    COMMITTED = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """What a key holds: a record, or None after a deletion.

    `remaining` is the time until the session expires in milliseconds, 0 or less where it has; `load` does not ask.
    """

    record: Record | None
    remaining: int = 1


@dataclass(frozen=True, slots=True)
class Commit:
    """One session's write: `before` is what was read (None: nothing), `after` the new record."""

    key: str
    before: Stored | None
    after: Record


class Store:
    """Sessions in one Redis server.

    Every call is safe to repeat, so the client repeats it by itself where a connection breaks or Redis is starting;
    after that each raises StoreUnavailableError. Keys are `<model>/<name>`.
    """

    def __init__(self, url: str, timeout: float, prefix: str = "carryover") -> None:
        """`timeout` is that of one attempt to connect, and of one answer, in seconds."""
        self._prefix = prefix
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # A connection that broke is made again; an answer that did not come in time is not waited for twice.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 3, supported_errors=(redis.ConnectionError,)),
        )
        self._commit = self._script("commit")
        self._create = self._script("create")
        self._delete = self._script("delete")

    def load(self, keys: Sequence[str]) -> list[Stored | None]:
        """Read sessions, in one round trip; None where there is no such key."""
        values = self._do(lambda: self._redis.mget([self._key(key) for key in keys]))
        return [None if value is None else _parse(value) for value in values]

    def look(self, key: str) -> Stored | None:
        """Read one session and how long it has left."""

        def read() -> list[Any]:
            with self._redis.pipeline(transaction=True) as pipeline:
                answers: list[Any] = pipeline.get(self._key(key)).pttl(self._key(key)).execute()
                return answers

        value, left = self._do(read)
        return None if value is None else Stored(_parse(value).record, left - GRACE)

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Write the new records of distinct sessions, each by compare-and-set, in one round trip."""
        arguments: list[bytes | int] = [GRACE]
        for commit in commits:
            after = commit.after
            arguments += [_expected(commit.before), after.data, after.ttl * 1000 + GRACE]
        keys = [self._key(commit.key) for commit in commits]
        return [Outcome(answer) for answer in self._do(lambda: self._commit(keys, arguments))]

    def create(self, key: str, record: Record) -> bool:
        """Begin a session; False where a live one has the name."""
        arguments = [GRACE, record.data, record.ttl * 1000 + GRACE]
        return bool(self._do(lambda: self._create([self._key(key)], arguments)))

    def delete(self, key: str) -> bool | None:
        """End a session; False where it was deleted before, None where there never was one."""
        answer = self._do(lambda: self._delete([self._key(key)], [GRACE, TOMBSTONE]))
        return None if answer < 0 else bool(answer)

    def ping(self) -> None:
        """Ask whether Redis answers and takes writes."""
        if self._do(lambda: self._redis.info("replication")).get("role") != "master":
            raise StoreUnavailableError("Redis is a read-only replica")

    def _key(self, key: str) -> str:
        # The braces are Redis Cluster's hash tag: whatever belongs to one session lies in one slot.
        return f"{self._prefix}:{{{key}}}"

    def _script(self, name: str) -> Any:
        return self._redis.register_script(files(__package__).joinpath("scripts", f"{name}.lua").read_bytes())

    def _do(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailableError(_reason(error)) from error


def _parse(value: bytes) -> Stored:
    return Stored(None if value == TOMBSTONE else Record.parse(value))


def _expected(before: Stored | None) -> bytes:
    if before is None:
        return b""
    return TOMBSTONE if before.record is None else before.record.header


_REASONS: dict[type[Exception], str] = {
    exceptions.AuthenticationError: "Redis refuses the service's credentials; the operator must set REDIS_URL right",
    exceptions.NoPermissionError: "Redis refuses the service's credentials; the operator must set REDIS_URL right",
    exceptions.ReadOnlyError: "Redis is a read-only replica",
    exceptions.OutOfMemoryError: "Redis is full",
    exceptions.BusyLoadingError: "Redis is loading its data",
    exceptions.TimeoutError: "Redis does not answer in time",
    exceptions.ConnectionError: "Redis does not answer",
    OSError: "Redis does not answer",
    Exception: "Redis answers with an error",
}


def _reason(error: Exception) -> str:
    return next(_REASONS[cls] for cls in type(error).__mro__ if cls in _REASONS)
