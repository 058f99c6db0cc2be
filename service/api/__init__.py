"""The REST interface: bodies in, engine calls, JSON out. Knows neither torch nor Redis."""

from flask import Flask

from service.api import accumulators, models, problems, sessions, streams, v2
from service.api.routing import NameConverter
from service.engine import Engine


def register(app: Flask, engine: Engine, max_body_bytes: int) -> None:
    """Put every route and error handler on the application."""
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.url_map.converters["name"] = NameConverter
    problems.register(app)
    for blueprint in v2.routes(engine, max_body_bytes):
        app.register_blueprint(blueprint)
    app.register_blueprint(models.routes(engine))
    app.register_blueprint(sessions.routes(engine))
    app.register_blueprint(streams.routes(engine, max_body_bytes))
    app.register_blueprint(accumulators.routes(engine))
