"""The engine: joins models and store. Knows neither HTTP nor Redis' commands."""

from service.engine.engine import Engine, Session
from service.engine.steps import Step

__all__ = ["Engine", "Session", "Step"]
