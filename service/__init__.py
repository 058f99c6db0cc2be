"""Carryover: a REST inference service for stateful PyTorch models."""

from flask import Flask

from service import api
from service.engine import Engine
from service.model.repository import Repository
from service.settings import Settings
from service.store import Store


def create_app(settings: Settings, repository: Repository, redis_url: str) -> Flask:
    """Return the application: the models of `repository`, with their sessions in the Redis at `redis_url`."""
    store = Store(redis_url, settings.redis_timeout)
    engine = Engine(repository, store, settings.max_batch, settings.max_queue, settings.session_ttl)
    app = Flask(__name__, static_folder=None)
    api.register(app, engine, settings.max_body_bytes)
    return app
