"""The nightly run: asked for at the set hour of the set time zone, once, whatever beat sends."""

from __future__ import annotations

from datetime import date

import pytest
from sqlalchemy import Engine, select

from moderation.db import transaction
from moderation.retraining import runs
from moderation.settings import settings
from moderation.tables import TrainingRun
from workers import nightly
from workers.celery_app import RETRAIN, app, schedule


def test_beat_asks_at_the_set_hour_of_the_set_time_zone() -> None:
    sent = schedule(settings().model_copy(update={"retrain_hour": 3}))["retrain"]
    assert (sent["task"], sent["schedule"].hour, sent["schedule"].minute) == (RETRAIN, {3}, {0})
    assert app.conf.timezone == settings().retrain_timezone.key


def test_beat_does_not_ask_where_no_hour_is_set() -> None:
    assert "retrain" not in schedule(settings().model_copy(update={"retrain_hour": None}))


def test_however_often_it_comes_there_is_one_run_a_night(db: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "night_of", lambda now, hour: date(2026, 11, 23))
    for _ in range(3):
        nightly.retrain()
    with transaction() as session:
        run = session.scalars(select(TrainingRun)).one()
    assert (run.asked_by, run.night) == ("beat", date(2026, 11, 23))


def test_where_nights_were_turned_off_since_it_was_sent_nothing_is_asked_for(
    db: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nightly, "settings", lambda: settings().model_copy(update={"retrain_hour": None}))
    nightly.retrain()
    with transaction() as session:
        assert session.scalars(select(TrainingRun)).all() == []
