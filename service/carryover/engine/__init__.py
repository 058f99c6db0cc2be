"""The engine: joins models and store. Knows neither HTTP nor Redis' commands."""

from carryover.engine.engine import Engine, Limits, Request, Session
from carryover.engine.transaction import Step
from carryover.store import Once

__all__ = ["Engine", "Limits", "Once", "Request", "Session", "Step"]
