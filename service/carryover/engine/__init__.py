"""The engine: joins models and store. Knows neither HTTP nor Redis' commands."""

from carryover.engine.charge import Charge
from carryover.engine.engine import Engine
from carryover.engine.limits import Limits
from carryover.engine.lookup import Session
from carryover.engine.operations import Operation, Preconditions

__all__ = ["Charge", "Engine", "Limits", "Operation", "Preconditions", "Session"]
