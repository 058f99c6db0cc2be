"""The engine: joins models and store. Knows neither HTTP nor Redis' commands."""

from service.engine.engine import Engine, Limits, Session
from service.engine.steps import Step

__all__ = ["Engine", "Limits", "Session", "Step"]
