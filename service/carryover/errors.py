"""Everything that can go wrong, as a tree. `carryover.api.problems` maps it to HTTP in one table.

The message of each error is the sentence that the client reads: what was wrong, where, and what would be right.
"""


class CarryoverError(Exception):
    """The root of all errors that the service raises on purpose."""


class ConfigurationError(CarryoverError):
    """The service cannot start: a setting, a manifest or a checkpoint is not right."""


class RequestError(CarryoverError):
    """The request, not the service, is at fault."""


class InvalidInputError(RequestError):
    """The body, a name or a header is not what the interface asks for."""


class NotFoundError(RequestError):
    """There is no such model, session, accumulator or route."""


class GoneError(RequestError):
    """The session was there, and has expired or was deleted."""


class ConflictError(RequestError):
    """The request does not fit what is stored."""


class NameTakenError(ConflictError):
    """A live session already has this name."""


class KeyInUseError(ConflictError):
    """A request with the same idempotency key is still running."""

    retry_after = 1


class KeyReusedError(RequestError):
    """The idempotency key stands for another request."""


class ForeignStateError(ConflictError):
    """The session's state belongs to a fingerprint that is not served."""


class PreconditionFailedError(RequestError):
    """`If-Match` or `If-None-Match` asks for something else than there is."""


class StepMismatchError(PreconditionFailedError):
    """`If-Match` names another step than the session stands at."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class BodyTooLargeError(RequestError):
    """The body, or one line of a stream, is over the limit."""


class MediaTypeError(RequestError):
    """The body is of a media type that the route does not read."""


class UnsupportedError(RequestError):
    """The interface has a word for this, and the service does not do it."""


class NonFiniteStateError(RequestError):
    """The step would have put NaN or an infinity into the session's state."""


class StateTooLargeError(RequestError):
    """The step would have made the session's state larger than `MAX_STATE_BYTES`."""


class UnavailableError(CarryoverError):
    """The service cannot do this now; `retry_after` says in how many seconds to ask again."""

    retry_after = 1


class OverloadedError(UnavailableError):
    """More requests are queued than `MAX_QUEUE` allows."""


class StoreUnavailableError(UnavailableError):
    """Redis does not answer, is read-only or is full."""


class CommitUnknownError(StoreUnavailableError):
    """Redis went away during a commit: it may have been made, or not."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; it is not known whether this request was carried out: look at the session's step, or send the "
            "request again with the same Idempotency-Key if it had one"
        )


class ModelFailedError(CarryoverError):
    """The model's own code raised, or broke its contract; nothing was committed."""
