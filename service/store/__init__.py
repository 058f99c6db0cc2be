"""Sessions in Redis: bytes, steps and expiry. Knows neither HTTP nor torch."""

from service.store.once import Once
from service.store.record import Record, Stored
from service.store.sessions import Commit, Outcome, Store

__all__ = ["Commit", "Once", "Outcome", "Record", "Store", "Stored"]
