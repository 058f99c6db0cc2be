"""The engine: joins models and store. Knows neither HTTP nor Redis' commands."""

from service.engine.engine import Engine, Limits, Request, Session
from service.engine.steps import Step
from service.store import Once

__all__ = ["Engine", "Limits", "Once", "Request", "Session", "Step"]
