"""What a request takes of the rate of its API key."""

from math import ceil

from carryover.errors import RateLimitedError
from carryover.keys import Key, Rate
from carryover.store import Demand, Quota, Store


class Charge:
    """What one request takes of its key's rate: one for each operation on a session, one where it has none.

    The operations take theirs when their sessions are loaded, in the same round trip, unless the request is `paid`
    for as a whole; `taken` says that something was taken.
    """

    __slots__ = ("_store", "name", "paid", "quota", "rate", "taken")

    def __init__(self, store: Store, key: Key, rate: Rate) -> None:
        self._store = store
        self.name = key.name
        self.rate = rate
        self.paid = self.taken = False
        self.quota: Quota | None = None

    def take(self) -> None:
        """Take one request in a round trip of its own, unless any was taken before.

        Raises:
            RateLimitedError: there is none left.

        """
        if self.taken:
            return
        self.paid = True
        demand = self.demand(1)
        self._store.take(demand)
        self.settle(demand)
        if not demand.allowed:
            raise self.error()

    def demand(self, count: int) -> Demand:
        """Return what so many requests ask for."""
        return Demand(self.name, self.rate.interval, self.rate.burst, count)

    def settle(self, demand: Demand) -> None:
        """Note what has become of it."""
        self.taken, self.quota = True, demand.quota

    def error(self) -> RateLimitedError:
        """Return the error of a request for which nothing is left."""
        rate, wait = self.rate, 0.0 if self.quota is None else self.quota.wait
        return RateLimitedError(
            f"the API key {self.name!r} has used up its rate of {rate.count} requests in {rate.seconds} s, "
            f"{rate.burst} at once; this request has changed nothing",
            max(1, ceil(wait)),
        )
