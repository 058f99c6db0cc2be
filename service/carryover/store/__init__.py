"""Sessions in Redis: bytes, steps and expiry. Knows neither HTTP nor torch."""

from carryover.store.health import StoreHealth
from carryover.store.rates import Demand, Quota
from carryover.store.record import Record, Records
from carryover.store.responses import IdempotencyKey
from carryover.store.store import Commit, Outcome, Store

__all__ = ["Commit", "Demand", "IdempotencyKey", "Outcome", "Quota", "Record", "Records", "Store", "StoreHealth"]
