"""When a request is sent again."""

import asyncio
import random
import time
from dataclasses import dataclass

from carryover.client.errors import ClientError


@dataclass(frozen=True)
class Retries:
    """Exponential back-off with jitter, never shorter than `Retry-After`."""

    seconds: float = 60.0
    """How long after the first attempt another one may start; 0 switches retries off."""
    first: float = 0.1
    """The first pause, in seconds; each is twice as long as the one before it."""
    longest: float = 5.0


class Attempts:
    """The attempts of one call."""

    def __init__(self, retries: Retries) -> None:
        self._longest = retries.longest
        self._pause = retries.first
        self._end = time.monotonic() + retries.seconds

    async def wait(self, error: ClientError) -> None:
        """Wait until the next attempt.

        Raises:
            ClientError: `error`, as there is no next attempt.

        """
        pause = max(self._pause * random.uniform(0.5, 1), error.retry_after)  # noqa: S311 - no secret
        if not error.temporary or time.monotonic() + pause > self._end:
            raise error
        self._pause = min(2 * self._pause, self._longest)
        await asyncio.sleep(pause)
