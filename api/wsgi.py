"""What gunicorn loads: `gunicorn --config python:infra.gunicorn api.wsgi:app`. Settings are read and logging begins."""

from __future__ import annotations

import logging.config

from api.app import create_app
from moderation import sealing
from moderation.settings import settings

# Libraries say less: at DEBUG they would print what they send, and signed links with it.
OURS = ("api", "moderation")


def configure_logging(level: str) -> None:
    """Readable lines on stderr, each with its request's id. Headers, bodies and query strings are never logged."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request_id": {"()": "api.requests.RequestIdFilter"}},
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "filters": ["request_id"], "formatter": "line"}},
            "root": {"level": "INFO" if level == "DEBUG" else level, "handlers": ["stderr"]},
            "loggers": {name: {"level": level} for name in OURS},
        }
    )


configure_logging(settings().log_level)
# Without a key no webhook can be verified and no endpoint made: raises ConfigurationError that says how to make one.
sealing.key_ids()
app = create_app(settings())
