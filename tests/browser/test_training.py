"""Training runs and models in real Chromium: an operator follows a run, decides about one, and goes back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from playwright.sync_api import Page, expect

from moderation import accounts, model_versions
from moderation.db import transaction
from moderation.estimates import Interval
from moderation.retraining import runs
from moderation.settings import settings
from moderation.storage import Storage, report_key
from moderation.tables import TrainingRun, User
from moderation.vocabulary import Role, RunStage, RunStatus
from tests.browser.conftest import Dashboard
from tests.factories import make_version
from tests.trained import make_challenger, make_night, make_run, numbers

OLGA = "olga@telltale.example"
Look = Callable[[Page, str], None]


def operator(dashboard: Dashboard) -> None:
    """An operator, who leads Pixelgram too."""
    user = dashboard.person(OLGA, Pixelgram=Role.LEAD)
    with transaction() as session:
        accounts.set_operator(session, session.get_one(User, user.id), True, actor="test")


def test_an_operator_follows_runs_and_promotes_the_one_that_was_kept(
    dashboard: Dashboard, look: Look, bucket: str
) -> None:
    operator(dashboard)
    with transaction() as session:
        first = make_version(session, "fakevlm-r4")
        second = make_challenger(session, "fakevlm-20260511-3fa9c1")
        rejected = make_challenger(session, "fakevlm-20260510-77d0aa")
        make_run(
            session, RunStatus.SKIPPED, ago=timedelta(days=3)
        ).reason = "12 images have been reviewed since the last run, and 50 are needed."
        make_run(session, RunStatus.REJECTED, version=rejected, accuracy=0.70, ago=timedelta(days=2))
        kept = make_run(session, RunStatus.KEPT, version=second, ago=timedelta(days=1))
        live = make_run(session, RunStatus.RUNNING, ago=timedelta(minutes=9))
        ids = first.id, kept.id, live.id
    Storage(settings()).put(report_key(ids[1]), numbers(0.78)[2].encode(), "text/html")
    page = dashboard.sign_in(OLGA, "/dashboard/runs")
    expect(page.get_by_text("update 87 of 212")).to_be_visible()
    look(page, "runs")
    page.goto(f"/dashboard/runs/{ids[2]}")
    look(page, "run-in-progress")
    with transaction() as session:
        row = session.get_one(TrainingRun, ids[2])
        row.progress = {"update": 150, "updates": 212, "loss": 0.3011, "seconds_left": 171}
    expect(page.get_by_text("update 150 of 212, loss 0.301, about 3 min left")).to_be_visible()
    with transaction() as session:
        row = session.get_one(TrainingRun, ids[2])
        row.status, row.reason, row.stage = RunStatus.FAILED, "Memory ran out: lower `batch_size`.", RunStage.TRAIN
    expect(page.get_by_text("Memory ran out")).to_be_visible()
    page.goto(f"/dashboard/runs/{ids[1]}")
    look(page, "run")
    page.get_by_role("link", name="Report", exact=True).click()
    expect(page.get_by_role("heading", level=2, name="The gate")).to_be_visible()
    page.go_back()
    page.get_by_role("button", name="Promote").click()
    page.get_by_label("Why").fill("Ten points on halftone are worth it.")
    look(page, "run-promote")
    page.get_by_role("dialog").get_by_role("button", name="Promote").press("Enter")
    expect(page.get_by_role("status").filter(has_text="It is champion")).to_be_visible()
    with transaction() as session:
        champion = model_versions.champion(session)
        assert champion is not None and champion.name == "fakevlm-20260511-3fa9c1"
        assert runs.run_of(session, ids[1]).status is RunStatus.PROMOTED


def test_an_operator_sees_how_the_champion_keeps_and_rolls_back(dashboard: Dashboard, look: Look) -> None:
    operator(dashboard)
    with transaction() as session:
        before = make_version(session, "fakevlm-r3")
        now = make_challenger(session, "fakevlm-r4")
        for night in range(14, 6, -1):
            make_night(session, before, (0.93, 0.88, 0.85, 0.87, 0.96), ago=timedelta(days=night))
        model_versions.promote(session, now.id, actor="test", instead_of=before.id)
        for night in range(6, 0, -1):
            make_night(session, now, (0.925, 0.875, 0.85, 0.865, 0.955), ago=timedelta(days=night))
        make_night(
            session,
            now,
            (0.885, 0.85, 0.82, 0.84, 0.95),
            ago=timedelta(hours=6),
            change=Interval(-0.045, -0.072, -0.019),
        )
        model_versions.swap_refused(
            session, now, worker="gpu-2:311", serving="fakevlm-r3", reason="Golden outputs differ.", again=False
        )
        model_versions.swapped(session, now, worker="gpu-1:207", instead_of="fakevlm-r3", seconds=1.4)
        ids = before.id, now.id
    page = dashboard.sign_in(OLGA, "/dashboard/models")
    expect(page.get_by_text("gpu-2:311 did not take fakevlm-r4")).to_be_visible()
    expect(page.get_by_text("The champion has got worse.")).to_be_visible()
    look(page, "models-drifted")
    page.goto("/dashboard")
    expect(page.get_by_text("The champion has got worse.")).to_be_visible()
    page.goto("/dashboard/models")
    page.get_by_role("button", name="Roll back").first.press("Enter")
    page.get_by_role("textbox", name="Why").fill("It calls more real photos fake since Tuesday.")
    look(page, "models-rollback")
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("status").filter(has_text="Rolled back")).to_be_visible()
    with transaction() as session:
        assert model_versions.champion_id(session) == ids[0]
