"""The idempotency keys of one session's operations in one batch."""

from collections.abc import Iterator

from carryover.engine.operations import Operation
from carryover.errors import CarryoverError, StoreUnavailableError
from carryover.store import IdempotencyKey

Keyed = tuple[IdempotencyKey, Operation]


class KeyLocks:
    """Which operation of a batch holds the lock of each key, and which ones are the same request sent again.

    Those wait for the outcome of the first, as the next request with the key would find it in the store.
    """

    __slots__ = ("_held", "_retries", "_stored")

    def __init__(self) -> None:
        self._held: dict[str, Keyed] = {}
        self._retries: list[tuple[Operation, Operation]] = []
        self._stored: list[tuple[IdempotencyKey, bytes]] = []

    def take(self, operation: Operation, key: IdempotencyKey, found: bytes | StoreUnavailableError | None) -> None:
        """Give an operation its key's lock, or the response that was stored under the key."""
        if isinstance(found, StoreUnavailableError):
            operation.error = found
            return
        first = self._held.get(key.name)
        if first is not None and first[0].request == key.request:
            self._retries.append((operation, first[1]))
            return
        if first is not None:
            found = first[0].lock()
        elif operation.attempts and found == key.lock():
            found = None  # the lock is its own, of the attempt before
        try:
            operation.replay = key.replay_or_raise(found)
        except CarryoverError as error:
            operation.error = error
        else:
            if operation.replay is None:
                self._held[key.name] = key, operation

    def waits(self, operation: Operation) -> bool:
        """Whether an operation waits for the outcome of another one."""
        return any(retry is operation for retry, _ in self._retries)

    def responses(self) -> list[tuple[IdempotencyKey, bytes]]:
        """Return the responses to store."""
        self._stored = [(key, one.response.dump()) for key, one in self._held.values() if one.response is not None]
        return self._stored

    def unused(self) -> Iterator[IdempotencyKey]:
        """Yield the keys whose operations have failed, which give up their locks."""
        return (key for key, one in self._held.values() if one.error is not None)

    def all(self) -> Iterator[IdempotencyKey]:
        """Yield all keys."""
        return (key for key, _ in self._held.values())

    def settle(self) -> None:
        """Give the retries what the operations that they wait for have got."""
        if not self._retries:
            return
        stored = {key.name: response for key, response in self._stored}
        for retry, first in self._retries:
            retry.finished, retry.attempts, retry.error = first.finished, first.attempts, first.error
            key = retry.preconditions.key
            if first.finished and first.error is None and first.response is not None and key is not None:
                retry.replay = stored[key.name]
