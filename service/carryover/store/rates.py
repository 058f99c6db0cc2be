"""Taking requests from a rate that all processes share; `scripts/rate.lua` has the algorithm."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """What a rate has left: `remaining` requests now, all of them in `reset` seconds, the next one in `wait`."""

    remaining: int
    reset: float
    wait: float


@dataclass(slots=True)
class Demand:
    """`count` requests of the rate `name`, of which `burst` may come at once, then one in `interval` microseconds.

    Once settled, `allowed` is how many may be carried out: all of them where Redis could not say, and has no `quota`.
    """

    name: str
    interval: int
    burst: int
    count: int
    allowed: int = 0
    quota: Quota | None = None

    def settle(self, reply: list[int] | Exception) -> None:
        """Take the script's reply."""
        if isinstance(reply, Exception):
            self.allowed = self.count
        else:
            self.allowed, remaining, reset, wait = reply
            self.quota = Quota(remaining, reset / 1e6, wait / 1e6)
