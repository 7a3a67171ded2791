"""The pool, the bell, and what outlasts a short outage of the database."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from moderation import db
from moderation.db import glance, insistent, transaction
from moderation.errors import LostLease

AWAY = OperationalError("UPDATE cases", {}, OSError("connection refused"))


class Write:
    """Fails as told, then succeeds; counts its runs."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.runs = 0

    def __call__(self, value: int) -> int:
        self.runs += 1
        if self._errors:
            raise self._errors.pop(0)
        return value


class Clock:
    """Stands still, but for this test's sleeping by it: the process's bell may be at work in a thread of its own."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            self.now += seconds
        else:
            time.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(db, "time", made)
    return made


def insisting(write: Write) -> int:
    @insistent
    def finish(value: int) -> int:
        return write(value)

    return finish(7)


def test_a_database_that_is_back_soon_costs_no_work(clock: Clock) -> None:
    write = Write(AWAY, AWAY)
    assert insisting(write) == 7
    assert write.runs == 3


def test_after_its_patience_the_error_is_the_callers(clock: Clock) -> None:
    write = Write(*[AWAY] * 1000)
    with pytest.raises(OperationalError):
        insisting(write)
    assert write.runs == db.INSIST_S / db.INSIST_EVERY_S + 1
    assert clock.now == db.INSIST_S


def test_what_no_waiting_mends_is_raised_at_once(clock: Clock) -> None:
    write = Write(LostLease("taken over"))
    with pytest.raises(LostLease):
        insisting(write)
    assert (write.runs, clock.now) == (1, 0.0)


# --- The pool ---

BACKEND = text("SELECT pg_backend_pid()")
CUT = """
SELECT pg_terminate_backend(pid, 60_000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'telltale'
"""


def test_connections_that_were_cut_while_they_lay_are_not_used(engine: Engine) -> None:
    with transaction() as session:
        before = session.scalar(BACKEND)
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(CUT)
    with transaction() as session:
        assert session.scalar(BACKEND) != before


def test_only_connections_that_have_lain_are_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "ASK_AFTER_S", 3600.0)
    own = db.engine.__wrapped__()  # another pool: a bell that still rings takes connections from the process's
    asked = []
    monkeypatch.setattr(own.dialect, "do_ping", lambda connection: bool(asked.append(connection)) or True)
    for _ in range(3):
        with own.connect() as connection:
            connection.execute(BACKEND)
    assert not asked
    monkeypatch.setattr(db, "ASK_AFTER_S", 0.0)
    with own.connect() as connection:
        connection.execute(BACKEND)
    assert len(asked) == 1
    own.dispose()


def test_in_a_glance_every_statement_stands_alone(engine: Engine) -> None:
    now = text("SELECT now()")
    with glance() as session:
        assert session.scalar(now) < session.scalar(now)
    with transaction() as session:
        assert session.scalar(now) == session.scalar(now)


# --- The bell ---


def test_many_commits_ring_few_times_and_the_last_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    said, after_the_last = [0], threading.Event()

    def ring() -> None:
        heard.append(said[0])
        if said[0] == 200:
            after_the_last.set()

    monkeypatch.setattr(db, "ring", ring)
    monkeypatch.setattr(db, "RING_EVERY_S", 0.02)
    bell, began = db._Bell(), time.monotonic()
    for number in range(1, 201):
        said[0] = number
        bell.ring()
        time.sleep(0.0001)
    assert after_the_last.wait(60)
    assert len(heard) <= (time.monotonic() - began) / db.RING_EVERY_S + 2
