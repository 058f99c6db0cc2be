"""Counting the sessions of each model, in one elected worker of all replicas: the others read what it has found.

Redis keeps no such number, and to keep one would cost every step a write. So all keys are looked at, as seldom as it
takes for that to be a hundredth of the time.
"""

import time
from collections import Counter
from contextlib import suppress

from carryover.errors import StoreUnavailableError
from carryover.store.store import Store

LEAST, MOST = 15.0, 600.0
"""Seconds between two counts."""
_SHARE = 100
_PAGE = 500
_PAUSE = 0.005


def count_forever(store: Store, least: float = LEAST) -> None:
    """Count from time to time; never returns."""
    while True:
        with suppress(StoreUnavailableError):
            if store.elect("counter", MOST):
                started = time.monotonic()
                sessions = count(store)
                pause = min(MOST, max(least, _SHARE * (time.monotonic() - started)))
                store.note_counts(sessions, pause + MOST)
                store.hold("counter", pause)
        time.sleep(least)


def count(store: Store) -> Counter[str]:
    """Look at all keys once, a page at a time; return how many live sessions each model has, whoever they are of."""
    sessions: Counter[str] = Counter()
    for keys in store.pages(_PAGE):
        sessions.update(store.models_of_live(keys))
        time.sleep(_PAUSE)
    return sessions
