"""Whether the store works, as far as this process knows: it is logged when that changes, not with every request."""

import logging
import time
from collections.abc import Callable

import redis
from redis import exceptions

from carryover.errors import StoreUnavailableError
from carryover.store.redis import UnconfirmedError

log = logging.getLogger(__name__)

NO_EVICTION = "noeviction"
_ERROR = "Redis returned an error"
_NO_PERMISSION = "Redis does not allow the service's credentials a command or key that a step needs"
_REASONS: dict[type[BaseException], str] = {
    exceptions.AuthenticationError: "Redis rejects the service's credentials; check REDIS_URL",
    exceptions.NoPermissionError: _NO_PERMISSION,
    exceptions.ReadOnlyError: "Redis is a read-only replica",
    exceptions.OutOfMemoryError: "Redis is full",
    exceptions.BusyLoadingError: "Redis is loading its data",
    UnconfirmedError: "fewer replicas of Redis than REDIS_MIN_REPLICAS have confirmed the step in time",
    exceptions.TimeoutError: "Redis does not answer in time",
    exceptions.ConnectionError: "Redis does not answer",
    OSError: "Redis does not answer",
    exceptions.MasterDownError: "Redis is a replica that has lost its master",
    exceptions.RedisClusterException: "Redis Cluster does not answer, or not for all slots",
    exceptions.ClusterError: "Redis Cluster does not answer, or not for all slots",
    Exception: _ERROR,
}
_TEXTS = {
    "MISCONF ": "Redis cannot write to its disk",
    "NOREPLICAS ": "Redis has fewer replicas than it needs to accept writes",
    "ACL failure in script": _NO_PERMISSION,
    "The user executing the script can't": _NO_PERMISSION,
}
"""Errors for which redis-py has no class: how the server's text starts."""


def reason(error: BaseException) -> str:
    """Return what the failure of a command means, for the client to read."""
    if isinstance(error, UnconfirmedError) and error.__cause__ is not None:
        return reason(error.__cause__)
    # What the client of a cluster raises where no node tells it of the others hides what they said.
    behind = error.__cause__ or error.__context__
    if isinstance(error, exceptions.RedisClusterException) and behind and reason(behind) != _ERROR:
        return reason(behind)
    if type(error) is redis.ResponseError:
        return next((why for start, why in _TEXTS.items() if str(error).startswith(start)), _ERROR)
    return next(_REASONS[cls] for cls in type(error).__mro__ if cls in _REASONS)


def unavailable(error: Exception) -> StoreUnavailableError:
    """Return the error that a failed command becomes."""
    raised = StoreUnavailableError(reason(error))
    raised.__cause__ = error
    return raised


class StoreHealth:
    """Whether the store works: `reason` says why not, and is None while it does.

    `warnings` say what may lose sessions though it works. `cause` says what is behind a failure, where whoever runs the
    server knows more than its clients.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.warnings: tuple[str, ...] = ()
        self.cause: Callable[[], str | None] = lambda: None
        self._since = 0.0

    def lost(self, error: BaseException, *, probe: bool = False) -> None:
        """Note that a command failed, and log that if the store worked until then.

        What fails for one key only, such as a key that another program wrote, is no loss of the store; of a `probe`,
        every failure is.
        """
        why = reason(error)
        if self.reason is not None or (why == _ERROR and not probe):
            return
        self.reason, self._since = why, time.monotonic()
        log.error("sessions cannot be stored: %s (%s)", why, error)

    def restored(self) -> None:
        """Note that the store works, and log that if it was lost."""
        if self.reason is not None:
            log.info("sessions can be stored again, after %.1f s", time.monotonic() - self._since)
            self.reason = None

    def emptied(self) -> None:
        """Log that everything that was stored is lost."""
        log.error(
            "sessions are lost: Redis was emptied, or another server has taken its place; steps of the sessions before "
            "are 404, and accumulators start again"
        )

    def found_policies(self, policies: set[str]) -> None:
        """Note what the servers do when their memory is full, and log it if it is new and loses sessions."""
        warnings = tuple(
            f"Redis' maxmemory-policy is {policy}, expected noeviction: when its memory is full, it deletes sessions "
            "without an error"
            for policy in sorted(policies - {NO_EVICTION})
        )
        for warning in set(warnings) - set(self.warnings):
            log.error("sessions can be lost: %s", warning)
        if self.warnings and not warnings:
            log.info("Redis' maxmemory-policy is %s again", NO_EVICTION)
        self.warnings = warnings
