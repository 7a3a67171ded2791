"""A transaction that ends a piece of work outlasts a short outage of the database."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from moderation import db
from moderation.db import insistent
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


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "INSIST_EVERY_S", 0.01)
    monkeypatch.setattr(db, "INSIST_S", 0.2)


def insisting(write: Write) -> int:
    @insistent
    def finish(value: int) -> int:
        return write(value)

    return finish(7)


def test_a_database_that_is_back_soon_costs_no_work() -> None:
    write = Write(AWAY, AWAY)
    assert insisting(write) == 7
    assert write.runs == 3


def test_after_its_patience_the_error_is_the_callers() -> None:
    write = Write(*[AWAY] * 1000)
    with pytest.raises(OperationalError):
        insisting(write)
    assert 2 <= write.runs <= 21


def test_what_no_waiting_mends_is_raised_at_once() -> None:
    write = Write(LostLease("taken over"))
    with pytest.raises(LostLease):
        insisting(write)
    assert write.runs == 1
