"""What one worker takes on, and the one check of each limit on the work of a request."""

from collections.abc import Iterable
from dataclasses import dataclass

from carryover.errors import LimitExceededError
from carryover.runtime.datatypes import Array


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker takes on.

    `batch` is the most requests that one forward takes, `queue` the most that may wait for a model, `ttl` the life of a
    session after its last use in seconds, `state_bytes` the largest state of a session, `timeout` the seconds that a
    model has for a request. A request has at most `elements` elements in its inputs, and as many in its outputs, or
    `keyed_elements` where its response is stored for a retry, and names at most `sessions` sessions.
    """

    batch: int
    queue: int
    ttl: int
    state_bytes: int
    timeout: float
    elements: int
    keyed_elements: int
    sessions: int

    def require_sessions(self, count: int) -> None:
        """Raise where one request names too many sessions.

        Raises:
            LimitExceededError: it does.

        """
        if count > self.sessions:
            raise LimitExceededError(
                f"the request has {count} sessions; expected at most {self.sessions} (MAX_SESSIONS)"
            )

    def storable(self, outputs: Iterable[Array]) -> LimitExceededError | None:
        """Return the error of outputs that are too large for a response that is stored; None where they are not."""
        count = sum(array.size for array in outputs)
        if count <= self.keyed_elements:
            return None
        return LimitExceededError(
            f"the outputs have {count} elements; expected at most {self.keyed_elements} (MAX_KEYED_ELEMENTS) in a "
            "response that is stored for its idempotency key; nothing was committed"
        )

    def too_many_elements(self, what: str, count: int) -> LimitExceededError:
        """Return the error of inputs or outputs of so many elements."""
        return LimitExceededError(
            f"the {what} have {count} elements; expected at most {self.elements} (MAX_ELEMENTS); nothing was committed"
        )
