"""Carryover: a REST inference service for stateful PyTorch models."""

from flask import Flask

from service import api, cli
from service.api.routing import Application
from service.engine import Engine, Limits
from service.model.repository import Repository
from service.settings import Settings
from service.store import Store


def create_engine(settings: Settings, repository: Repository, redis_url: str) -> Engine:
    """Return the engine: the models of `repository`, with their sessions in the Redis at `redis_url`."""
    limits = Limits(settings.max_batch, settings.max_queue, settings.session_ttl, settings.max_state_bytes)
    return Engine(repository, Store(redis_url, settings.redis_timeout, settings.idempotency_ttl), limits)


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> Flask:
    """Return the application: the commands and, with an engine, the REST interface in front of it."""
    app = Application(__name__, static_folder=None)
    cli.register(app)
    if settings is not None and engine is not None:
        api.register(app, engine, settings.max_body_bytes)
    return app
