"""The Celery application: which role runs what, and that nothing but ids and starts is left to the broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moderation.errors import LostLease
from tests.measuring import value
from workers import celery_app
from workers.celery_app import (
    CLEAN_UP,
    DELIVER,
    EXPLAIN,
    FETCH,
    MAIL,
    REJUDGE,
    RETRAIN,
    ROUTES,
    SCREEN,
    SETTLE,
    TASK_MODULES,
    LoggedTask,
    app,
)

ROOT = Path(celery_app.__file__).resolve().parents[1]
# In a process of its own, for what is imported stays imported.
LOADED = """
import json, sys
from workers.celery_app import app
app.loader.import_default_modules()
ours = sorted(name for name in app.tasks if not name.startswith("celery."))
print(json.dumps({"tasks": ours, "torch": "torch" in sys.modules, "model": "model" in sys.modules}))
"""


def loaded(role: str | None) -> dict[str, object]:
    environment = {name: value for name, value in os.environ.items() if name != "TELLTALE_WORKER_ROLE"}
    if role:
        environment["TELLTALE_WORKER_ROLE"] = role
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("role", "tasks", "torch"),
    [
        (None, [], False),
        ("fetching", [FETCH], False),
        ("delivery", sorted([DELIVER, SETTLE, MAIL, CLEAN_UP, RETRAIN]), False),
        ("screening", sorted([SCREEN, EXPLAIN, REJUDGE]), True),
    ],
)
def test_a_role_loads_its_own_tasks_and_only_screening_the_model(
    role: str | None, tasks: list[str], torch: bool
) -> None:
    assert loaded(role) == {"tasks": tasks, "torch": torch, "model": torch}


def test_every_task_has_a_queue_of_its_own_role() -> None:
    assert set(ROUTES) == {SCREEN, EXPLAIN, REJUDGE, FETCH, DELIVER, SETTLE, MAIL, CLEAN_UP, RETRAIN}
    assert ROUTES[REJUDGE] == ROUTES[EXPLAIN] == ROUTES[SCREEN], "the same network judges, new cases first"
    assert set(TASK_MODULES) == {"screening", "fetching", "delivery"}
    assert {name: app.amqp.router.route({}, name)["queue"].name for name in ROUTES} == ROUTES


def test_recovery_is_never_the_brokers() -> None:
    assert app.conf.task_acks_late is False
    assert app.conf.task_ignore_result is True
    assert app.conf.result_backend is None
    assert app.conf.worker_prefetch_multiplier == 1


def test_beat_knows_only_tasks_that_somebody_runs() -> None:
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(ROUTES)


def ended(outcome: str) -> float:
    return value("telltale_tasks_total", task="tests.loses", outcome=outcome)


def test_a_lost_lease_is_harmless_and_every_other_error_is_not(caplog: pytest.LogCaptureFixture) -> None:
    class Loses(LoggedTask):
        name = "tests.loses"

        def run(self, error: Exception | None) -> None:
            if error is not None:
                raise error

    Loses.bind(app)
    task = Loses()
    before = ended("lost"), ended("done"), ended("failed")
    task(LostLease("somebody else has it"))
    assert "somebody else has it" in caplog.text
    task(None)
    with pytest.raises(ZeroDivisionError):
        task(ZeroDivisionError())
    assert (ended("lost"), ended("done"), ended("failed")) == tuple(count + 1 for count in before)
    assert value("telltale_task_seconds_count", task="tests.loses") == 3
