"""Sessions in Redis: bytes, steps and expiry. Knows neither HTTP nor torch."""

from service.store.record import Record
from service.store.sessions import Commit, Outcome, Store, Stored

__all__ = ["Commit", "Outcome", "Record", "Store", "Stored"]
