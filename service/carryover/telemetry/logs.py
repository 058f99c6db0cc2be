"""Log lines as text or JSON, and an access log only on request."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger


class JsonFormatter(logging.Formatter):
    """Formats a record as an object with time, level, logger, process, message and, if there is one, the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Logger(GunicornLogger):  # type: ignore[misc]
    """gunicorn's logger, which with a dict configuration would format every access log line and drop it."""

    @property
    def access_log_enabled(self) -> bool:
        """Whether an access log was requested (`--access-logfile`)."""
        return bool(self.cfg.accesslog)


def config(log_format: str) -> dict[str, Any]:
    """Return the logging configuration of gunicorn and the service: to standard error, as `text` or `json`."""
    text = {"format": "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s", "datefmt": "%Y-%m-%d %H:%M:%S %z"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"text": text, "json": {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": log_format}},
        "root": {"level": "INFO", "handlers": ["stderr"]},
        "loggers": {
            name: {"level": "INFO", "handlers": ["stderr"], "propagate": False}
            for name in ("gunicorn.error", "carryover")
        },
    }
