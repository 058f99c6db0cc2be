"""The sweeper, which frees the memory of expired sessions.

Redis removes the key of an expired session only after the day in which its end is remembered. Now and then the sweeper,
one among all workers, scans the keys and truncates expired records to their headers. Only memory depends on it: whether
a session has expired follows from the TTL of its key.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from carryover.errors import StoreUnavailableError
from carryover.store.store import Store

INTERVAL = 300.0
"""Seconds between sweeps."""
_PAGE = 500
_PAUSE = 0.01

log = logging.getLogger(__name__)


def sweep_forever(store: Store, swept: Callable[[int], None], interval: float = INTERVAL) -> None:
    """Sweep every `interval` seconds; never returns. `swept` is given how many sessions each sweep found expired."""
    while True:
        time.sleep(interval)
        with suppress(StoreUnavailableError):
            store.ping()  # no request may come that would notice an outage or another maxmemory-policy
        try:
            if store.elect("sweeper", interval):
                swept(sweep(store))
        except StoreUnavailableError as error:
            log.warning("sweeping expired sessions failed: %s", error)


def sweep(store: Store) -> int:
    """Scan all keys once, a page at a time; return how many states were dropped."""
    dropped = 0
    for keys in store.pages(_PAGE):
        dropped += store.drop_expired(keys)
        time.sleep(_PAUSE)
    return dropped
