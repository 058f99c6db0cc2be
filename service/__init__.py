"""Carryover: a REST inference service for stateful PyTorch models."""

from flask import Flask

from service import api
from service.engine import Engine, Limits
from service.model.repository import Repository
from service.settings import Settings
from service.store import Store


def create_engine(settings: Settings, repository: Repository, redis_url: str) -> Engine:
    """Return the engine: the models of `repository`, with their sessions in the Redis at `redis_url`."""
    limits = Limits(settings.max_batch, settings.max_queue, settings.session_ttl, settings.max_state_bytes)
    return Engine(repository, Store(redis_url, settings.redis_timeout, settings.idempotency_ttl), limits)


def create_app(settings: Settings, engine: Engine) -> Flask:
    """Return the application: the engine behind the REST interface."""
    app = Flask(__name__, static_folder=None)
    api.register(app, engine, settings.max_body_bytes)
    return app
