"""Sessions in Redis: bytes, steps and expiry. Knows neither HTTP nor torch."""

from carryover.store.record import Record, Stored
from carryover.store.responses import Once
from carryover.store.store import Commit, Outcome, Store

__all__ = ["Commit", "Once", "Outcome", "Record", "Store", "Stored"]
