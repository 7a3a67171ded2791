"""What every process writes down of its work: an object of JSON a line on stderr, or a line for people.

The standard library's logging stays the interface. Here is what its records become, and where a request or a task says
once what all of its lines are about, such as a case. `Fields` is all that a line may have beside its message, so that
nothing private comes along by the way; docs/logs.md explains each. It knows no requests and no tasks.
"""

from __future__ import annotations

import logging
import logging.config
import re
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, TypedDict, Unpack
from uuid import UUID

from pythonjsonlogger.json import JsonFormatter

from moderation.settings import Settings, unread_variables

# What writes at the level that is set. Libraries say less: at DEBUG they would print what they send, and links with it.
OURS = ("api", "infra", "model", "moderation", "workers")
QUIET = {
    # Links that cannot be read it repeats with their query.
    "urllib3": "ERROR",
    # A line for each request to vLLM.
    "httpx": "WARNING",
    # Two more lines for each task, which has one of ours.
    "celery.worker.strategy": "WARNING",
    "celery.app.trace": "WARNING",
}

log = logging.getLogger(__name__)


class Fields(TypedDict, total=False):
    """What a line may say beside its message. Ids are ours, but for `request_id`, which may be the sender's."""

    request_id: str | None
    case_id: UUID | str | None
    tenant_id: UUID | str | None
    delivery_id: UUID | str
    endpoint_id: UUID | str
    run_id: UUID | str
    task: str
    attempt: int
    outcome: str
    label: str
    p_fake: float
    method: str
    route: str
    status: int | None
    bytes: int | None
    prepare_ms: float
    judge_ms: float
    duration_ms: float


FIELDS = tuple(Fields.__annotations__)
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=_NOTHING)


def begin(**fields: Unpack[Fields]) -> None:
    """What this thread's lines are about from now on, and nothing of what they were about before."""
    _about.set(fields)


def add(**fields: Unpack[Fields]) -> None:
    """More of what this thread's lines are about, until something else begins."""
    _about.set({**_about.get(), **fields})


def configure(process: str, settings: Settings) -> None:
    """Have this process write its lines as the settings say; whatever ends one of its threads is such a line too."""
    logging.config.dictConfig(configuration(process, settings))
    logging.captureWarnings(True)
    sys.excepthook = _ended
    threading.excepthook = _thread_ended
    for said in unread_variables():
        log.warning(said)


def configuration(process: str, settings: Settings) -> dict[str, Any]:
    """The same as a dictionary for `logging.config`. `process` is what its lines say they are of."""
    level = settings.log_level
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"about": {"()": About}},
        "formatters": {"json": {"()": JsonLines, "process": process}, "text": {"()": TextLines}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "filters": ["about"], "formatter": settings.log_format}
        },
        "root": {"level": "INFO" if level == "DEBUG" else level, "handlers": ["stderr"]},
        "loggers": {
            **{name: {"level": level} for name in OURS},
            **{name: {"level": least} for name, least in QUIET.items()},
            # Gunicorn gives it a handler and a format of its own.
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
        },
    }


class About(logging.Filter):
    """Gives a record what its thread's lines are about; what the record says itself goes first."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        for name, value in _about.get().items():
            if record.__dict__.get(name) is None:
                record.__dict__[name] = value
        return True


class JsonLines(JsonFormatter):
    """A record as one line of JSON, in a fixed order: what happened, what it was about, and the traceback."""

    def __init__(self, process: str) -> None:
        super().__init__(
            ("asctime", "levelname", "name", "message"),
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"},
            static_fields={"process": process},
            json_default=str,
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's
        """RFC 3339 in UTC, to the millisecond."""
        return _time(record).replace("+00:00", "Z")

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Only what a line may have, and of that what there is."""
        said = {name: log_data[name] for name in _ORDER if log_data.get(name) not in (None, "")}
        for name in ("message", "exception"):
            if name in said:
                said[name] = scrubbed(said[name])
        return said


_ORDER = ("time", "level", "process", "logger", "message", *FIELDS, "exception")


class TextLines(logging.Formatter):
    """A record as people read it, and what it was about behind the message; a traceback takes lines of its own.

    What is not the first line is set in, so that no message can look like another one's line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines."""
        said = {name: record.__dict__[name] for name in FIELDS if record.__dict__.get(name) not in (None, "")}
        about = "".join(f"  {name}={value}" for name, value in said.items())
        lines = [f"{_time(record)[:23]} {record.levelname} {record.name}: {record.getMessage()}{about}"]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return scrubbed("\n".join(lines)).replace("\n", "\n  ").replace("\r", "")


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


# What other people's messages may repeat, and what is left of it. PostgreSQL's DETAIL quotes the row.
_SCRUBBED = (
    ("?", re.compile(r"\?[^\s\"'<>?]*=[^\s\"'<>]*"), "?…"),
    ("@", re.compile(r"://[^\s/@]+@"), "://…@"),
    ("@", re.compile(r"[\w.!#$%&*+/=?^`{|}~'-]{1,64}@[\w-]{1,63}(\.[\w-]+)+"), "…@…"),
    ("DETAIL", re.compile(r"^DETAIL:.*(\n(?!\S).*)*", re.MULTILINE), "DETAIL: …"),
)


def scrubbed(text: str) -> str:
    """A text without queries of links, passwords and names in them, mail addresses, and quotations from rows."""
    for hint, pattern, left in _SCRUBBED:
        if hint in text:
            text = pattern.sub(left, text)
    return text


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("this process ends: %s", error, exc_info=(kind, error, trace))


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread else "a thread"
    trace = (args.exc_type, args.exc_value, args.exc_traceback)
    log.critical("%s ended: %s", name, args.exc_value, exc_info=trace)  # type: ignore[arg-type]
