"""The Flask application: the commands and, with an engine, the REST interface in front of it."""

from carryover.api import problems, v2
from carryover.api.routing import Application, NameConverter
from carryover.api.v1 import accumulators, models, sessions, streams
from carryover.engine import Engine
from carryover.settings import Settings


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> Application:
    """Return the application; without an engine it serves nothing."""
    from carryover import cli  # noqa: PLC0415

    app = Application("carryover", static_folder=None)
    cli.register(app)
    if settings is None or engine is None:
        return app
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.converters["name"] = NameConverter
    problems.register(app)
    for blueprint in v2.routes(engine, settings.max_body_bytes):
        app.register_blueprint(blueprint)
    app.register_blueprint(models.routes(engine))
    app.register_blueprint(sessions.routes(engine))
    app.register_blueprint(streams.routes(engine, settings.max_body_bytes))
    app.register_blueprint(accumulators.routes(engine))
    return app
