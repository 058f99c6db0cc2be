"""A session's write, for tests that drive the store by itself."""

from dataclasses import dataclass

from carryover.store import IdempotencyKey, Record


@dataclass(frozen=True)
class Write:
    """A `carryover.store.Commit`."""

    key: str
    before: Record | None
    after: Record | None
    live: bool = True
    responses: tuple[tuple[IdempotencyKey, bytes], ...] = ()
