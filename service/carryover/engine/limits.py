"""What one worker takes on, and the one check of each limit on the work of a request."""

from dataclasses import dataclass

from carryover.errors import LimitExceededError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker takes on.

    `batch` is the most requests that one forward takes, `queue` the most that may wait for a model, `ttl` the life of a
    session after its last use in seconds, `state_bytes` the largest state of a session, `timeout` the seconds that a
    model has for a request. A request has at most `elements` elements in its inputs, and as many in its outputs, and
    names at most `sessions` sessions.
    """

    batch: int
    queue: int
    ttl: int
    state_bytes: int
    timeout: float
    elements: int
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

    def too_many_elements(self, what: str, count: int) -> LimitExceededError:
        """Return the error of inputs or outputs of so many elements."""
        return LimitExceededError(
            f"the {what} have {count} elements; expected at most {self.elements} (MAX_ELEMENTS); nothing was committed"
        )
