"""Lines of the log: one each, with what they are about, and without what is nobody's business."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from moderation import logs
from moderation.settings import settings

log = logging.getLogger("moderation.test")
FORMATS = ("json", "text")
HEARD = {"moderation.test", "moderation.logs", "botocore", "urllib3.connection"}


class Written(io.StringIO):
    """What was written, as lines, and as what they say."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    """All that is logged meanwhile, by our configuration; in JSON, or as the test asks for."""
    root, into = logging.getLogger(), Written()
    before, level, hooks = list(root.handlers), root.level, (sys.excepthook, threading.excepthook)
    format_: Literal["json", "text"] = getattr(request, "param", "json")
    logs.configure("api", settings().model_copy(update={"log_format": format_, "log_level": "DEBUG"}))
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(into)
    handler.addFilter(lambda record: record.name in HEARD)  # threads of other tests may still have something to say
    logs.begin()
    yield into
    logs.begin()
    root.handlers, root.level = before, level
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)
    for name in (*logs.OURS, *logs.QUIET):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_line_says_when_who_and_about_what_in_a_fixed_order(written: Written) -> None:
    logs.begin(request_id="r1", tenant_id="t1")
    logs.add(case_id="c1")
    log.info("judged as %s", "real", extra=logs.Fields(duration_ms=1.5, status=None))
    logs.begin(task="another")
    log.warning("…")
    first, second = written.said
    assert list(first) == [
        *("time", "level", "process", "logger", "message"),
        *("request_id", "case_id", "tenant_id", "duration_ms"),
    ]
    assert first["message"] == "judged as real" and first["process"] == "api" and first["time"].endswith("Z")
    assert (second["task"], second["level"]) == ("another", "WARNING") and "request_id" not in second


def test_what_is_no_field_is_not_written(written: Written) -> None:
    log.info("hello", extra={"external_id": "hush", "data": {"args": "hush"}})
    assert "hush" not in written.getvalue() and written.said[0]["message"] == "hello"


def test_what_a_thread_is_about_is_its_own(written: Written) -> None:
    logs.begin(request_id="mine")
    other = threading.Thread(target=log.info, args=["from beside"])
    other.start()
    other.join()
    assert "request_id" not in written.said[0]


def test_an_error_keeps_its_traceback_in_its_line(written: Written) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it failed")
    (line,) = written.said
    assert line["message"] == "it failed" and line["exception"].endswith("ValueError: two\nlines")
    assert "test_logs.py" in line["exception"]


def test_what_ends_a_thread_or_the_process_is_a_line(written: Written) -> None:
    broken = threading.Thread(target=lambda: 1 / 0, name="worker-7")
    broken.start()
    broken.join()
    error = KeyError("x")
    sys.excepthook(KeyError, error, None)
    assert [line["message"] for line in written.said] == [
        "worker-7 ended: division by zero",
        "this process ends: 'x'",
    ]
    assert [line["level"] for line in written.said] == ["CRITICAL"] * 2


@pytest.mark.parametrize("written", FORMATS, indirect=True)
@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("GET /cases?token=hush HTTP/1.1", "GET /cases?… HTTP/1.1"),
        ("https://x.test/a.png?b=hush#c and on", "https://x.test/a.png?… and on"),
        ("to ada.hush+1@mail.example.com: 550", "to …@…: 550"),
        ("postgresql://user:hush@host/db", "postgresql://…@host/db"),
        ("redis://:hush@host:1/0", "redis://…@host:1/0"),
        ("duplicate key\nDETAIL:  Key (email)=(hush) exists.\nSTATEMENT", "duplicate key\nDETAIL: …\nSTATEMENT"),
    ],
)
def test_what_others_messages_repeat_is_left_out(written: Written, text: str, left: str) -> None:
    log.info("said: %s", text)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("again")
    assert "hush" not in written.getvalue()
    told = written.getvalue().replace("\\n", "\n").replace("\n  ", "\n")
    assert told.replace("\\u2026", "…").count(left) == 2


def test_a_long_word_takes_no_longer_than_it_is_long() -> None:
    """A pattern that tries anew from every letter would hold the interpreter for seconds."""
    began = time.thread_time()
    assert logs.scrubbed("@" + 40_000 * "a") == "@" + 40_000 * "a"
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("text", ["celery@host ready", "what? a=b", "5 @ 3", "see DETAIL"])
def test_what_is_ordinary_stays(written: Written, text: str) -> None:
    log.info(text)
    assert written.said[0]["message"] == text


@pytest.mark.parametrize("written", ["text"], indirect=True)
def test_for_people_it_is_text(written: Written) -> None:
    logs.begin(request_id="r1")
    log.info("offered", extra=logs.Fields(task="screening.screen"))
    (line,) = written.lines
    assert line.endswith("INFO moderation.test: offered  request_id=r1  task=screening.screen")


@pytest.mark.parametrize("written", ["text"], indirect=True)
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_no_message_looks_like_a_line_of_its_own(written: Written, end: str) -> None:
    forged = "2026-01-01T00:00:00.000 INFO api.dashboard: signed in"
    log.warning("not delivered: %s", f"x{end}{forged}")
    assert not [line for line in written.lines if line.startswith("2026-01-01")]
    assert not any("\r" in line for line in written.lines)


def test_libraries_say_less_than_we_do(written: Written) -> None:
    log.debug("ours")
    logging.getLogger("botocore").debug("hush")
    logging.getLogger("urllib3.connection").warning("Failed to parse headers (url=https://x/?hush)")
    assert [line["message"] for line in written.said] == ["ours"]
