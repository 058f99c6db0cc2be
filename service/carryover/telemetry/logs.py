"""Log lines as text or JSON, and an access log only on request."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger


def json_line(message: str) -> str:
    """Return what is printed rather than logged, as a line of the log."""
    record = logging.LogRecord("carryover", logging.INFO, "", 0, message, None, None)
    return JsonFormatter().format(record)


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
    """gunicorn's logger, whose access log is there only on request and has the format of the other lines.

    With a dict configuration, gunicorn's own would format every access log line and drop it.
    """

    def setup(self, cfg: Any) -> None:
        """Set up the loggers: lines of the access log are messages as any other, where they are JSON."""
        super().setup(cfg)
        for handler in self.access_log.handlers:
            if cfg.logconfig_dict["handlers"]["stderr"]["formatter"] == "json":
                handler.setFormatter(JsonFormatter())

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
