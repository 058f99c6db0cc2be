"""Giving back the memory of sessions that have expired.

Redis removes an ended session's key only after the day in which it is remembered. The sweeper, one at a time among all
workers, looks through the keys now and then and leaves only the headers of those that have expired. Nothing depends on
it but memory: whether a session lives is told by its key's expiry.
"""

import logging
import time

from carryover.errors import StoreUnavailableError
from carryover.store.store import Store

INTERVAL = 300.0
"""Seconds between two sweeps."""
_PAGE = 500
_PAUSE = 0.01

log = logging.getLogger(__name__)


def sweep_forever(store: Store, interval: float = INTERVAL) -> None:
    """Sweep again and again; never returns. `interval` is in seconds."""
    while True:
        time.sleep(interval)
        try:
            if store.elect("sweeper", interval):
                sweep(store)
        except StoreUnavailableError as error:
            log.warning("the sweep of expired sessions was given up: %s", error)


def sweep(store: Store) -> int:
    """Look through all keys once, a page at a time; return how many states were dropped."""
    dropped = 0
    for keys in store.pages(_PAGE):
        dropped += store.drop_expired(keys)
        time.sleep(_PAUSE)
    return dropped
