"""Everything that can go wrong, as a tree. `carryover.api.problems` maps it to HTTP in one table.

The message of each error is the sentence that the client reads: what is wrong, where, and what was expected.
"""


class CarryoverError(Exception):
    """The root of all errors that the service raises on purpose."""


class ConfigurationError(CarryoverError):
    """The service cannot start: a setting, a manifest or a checkpoint is invalid."""


class RequestError(CarryoverError):
    """The request, not the service, is at fault."""


class InvalidInputError(RequestError):
    """The body, a name or a header is invalid."""


class UnauthorizedError(RequestError):
    """The request has no valid API key; `given` says whether it has any."""

    def __init__(self, message: str, *, given: bool) -> None:
        super().__init__(message)
        self.given = given


class ForbiddenError(RequestError):
    """The caller lacks the right to this."""


class NotFoundError(RequestError):
    """There is no such model, session, accumulator or route."""


class GoneError(RequestError):
    """The session has expired or was deleted; a name whose session was `deleted` can be used again."""

    def __init__(self, message: str, *, deleted: bool = False) -> None:
        super().__init__(message)
        self.deleted = deleted


class ConflictError(RequestError):
    """The request does not fit what is stored."""


class NameTakenError(ConflictError):
    """A session with this name exists."""


class KeyInUseError(ConflictError):
    """A request with the same idempotency key is in flight."""

    retry_after = 1


class KeyReusedError(RequestError):
    """The idempotency key was used with another request."""


class ForeignStateError(ConflictError):
    """The session's state belongs to a fingerprint that is not served."""


class PreconditionFailedError(RequestError):
    """`If-Match` or `If-None-Match` does not hold."""


class StepMismatchError(PreconditionFailedError):
    """`If-Match` names other steps than the session is at."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class BodyTooLargeError(RequestError):
    """The body, or one line of a stream, is over the limit."""


class LimitExceededError(RequestError):
    """The request asks for more work than a setting allows."""


class SlowClientError(RequestError):
    """The client sends its body too slowly."""


class MediaTypeError(RequestError):
    """The body is of a media type that the route does not read."""


class UpgradeRequiredError(RequestError):
    """The route speaks WebSocket, and the request does not ask for it."""


class UnsupportedError(RequestError):
    """The interface defines this, and the service does not implement it."""


class NonFiniteStateError(RequestError):
    """The step would have put NaN or an infinity into the session's state."""


class StateTooLargeError(RequestError):
    """The step would have made the session's state larger than `MAX_STATE_BYTES`."""


class InputRejectedError(RequestError):
    """The model's forward raised at the input, or at the session's state, and takes others."""


class UnavailableError(CarryoverError):
    """The service cannot do this now; `retry_after` says after how many seconds to retry."""

    retry_after = 1


class StreamEndedError(UnavailableError):
    """The service ends a stream; its problem is the stream's last line."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}: the stream ends here; lines that have no response were not run, send them in another stream"
        )
        self.reason = reason


class EventsEndedError(UnavailableError):
    """The service ends a stream of events; its problem is the last one."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: the events end here; follow the session again, with Last-Event-ID")


class OverloadedError(UnavailableError):
    """More requests are queued than `MAX_QUEUE` allows."""


class RateLimitedError(UnavailableError):
    """The rate of the API key is used up."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreUnavailableError(UnavailableError):
    """Redis does not answer, is read-only or is full."""


class DamagedRecordError(StoreUnavailableError):
    """A record in Redis is cut short, or of a format that this version of the service cannot read."""


class CommitUnknownError(StoreUnavailableError):
    """A commit was made or not, or may get lost: its connection to Redis broke, or no replica has confirmed it."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; it is not known whether this request was committed: compare the session's step, or retry with "
            "the same Idempotency-Key if the request had one"
        )


class ForwardTimeoutError(UnavailableError):
    """The model had no result within `REQUEST_TIMEOUT`; nothing was committed."""

    retry_after = 5

    def __init__(self, model: str, seconds: float) -> None:
        super().__init__(
            f"model {model!r} has no result after {seconds:g} seconds (REQUEST_TIMEOUT); this request has changed "
            "nothing, and may be sent again"
        )


class ModelFailedError(CarryoverError):
    """The model's own code raised, or broke its contract; nothing was committed."""


class GrowingStateError(ModelFailedError):
    """The structure of a model's state is another after each step."""


class ApartError(CarryoverError):
    """Steps that were run together have to run one by one; nothing was committed. No client sees it."""
