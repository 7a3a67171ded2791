"""Models and training runs in process: who may change what judges, what is refused, and what is written of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from markupsafe import escape

from api.dashboard.runs import LEFT_OUT
from moderation import accounts, model_versions
from moderation.db import transaction
from moderation.estimates import Interval
from moderation.retraining import runs
from moderation.retraining.labels import LeftOut
from moderation.settings import settings
from moderation.storage import Storage, report_key
from moderation.tables import Event, Rejudging, Tenant, TrainingRun, User
from moderation.vocabulary import CaseStatus, EventType, Role, RunStatus
from tests.api.dashboard.conftest import Browser
from tests.factories import make_case, make_tenant, make_version
from tests.trained import make_challenger, make_night, make_run, numbers


@pytest.fixture
def olga(browser_of: Callable[..., Browser]) -> Browser:
    """The browser of a lead who is an operator."""
    browser = browser_of(Role.LEAD)
    assert browser.user is not None
    with transaction() as session:
        session.get_one(User, browser.user.id).operator = True
    return browser


def champion_name() -> str | None:
    with transaction() as session:
        champion = model_versions.champion(session)
        return champion.name if champion else None


def events(type_: EventType) -> list[Event]:
    with transaction() as session:
        return list(session.query(Event).filter_by(type=type_).order_by(Event.id))


def test_an_operator_promotes_a_version_and_the_run_it_was_kept_for(olga: Browser) -> None:
    with transaction() as session:
        first, second = make_version(session, "r1"), make_challenger(session, "r2")
        run_id = make_run(session, RunStatus.KEPT, version=second).id
    data = {"instead_of": str(first.id), "reason": "better on halftone"}
    answer = olga.post(f"/dashboard/models/{second.id}/promote", data)
    assert (answer.status_code, champion_name()) == (303, "r2")
    assert olga.user is not None
    with transaction() as session:
        assert runs.run_of(session, run_id).status is RunStatus.PROMOTED
    told = events(EventType.MODEL_PROMOTED)[-1]
    assert (told.actor, (told.after or {})["reason"]) == (f"user:{olga.user.id}", "better on halftone")
    assert events(EventType.RUN_ENDED)[-1].actor == f"user:{olga.user.id}"


def test_measures_stand_there_as_people_write_them_each_with_its_interval(olga: Browser) -> None:
    with transaction() as session:
        one, other = make_version(session, "r1"), make_challenger(session, "r2")
        one.manifest = {**one.manifest, "metrics": {"ece": 0.0481, "reals": 0.9116}}
        both = {"validation_auc": 0.97391, "validation_auc_95": [0.952, 0.9931], "validation_images": 364}
        other.manifest = {**other.manifest, "metrics": both}
    page = olga.get("/dashboard/models").text
    assert 'scope="row">Calibration error</th>' in page and 'scope="row">Accuracy on real images</th>' in page
    assert 'scope="row">Validation AUC</th>' in page and "0.9739 (0.952 to 0.9931)" in page
    assert "auc 95" not in page.lower() and page.count("not measured") == 4


def test_a_kept_run_is_promoted_or_rejected_once(olga: Browser) -> None:
    with transaction() as session:
        first, second = make_version(session, "r1"), make_challenger(session, "r2")
        run_id = make_run(session, RunStatus.KEPT, version=second).id
    assert olga.post(f"/dashboard/runs/{run_id}/reject").status_code == 303
    answer = olga.post(f"/dashboard/runs/{run_id}/promote", {"instead_of": str(first.id)})
    assert answer.status_code == 409 and "rejected" in answer.text
    assert champion_name() == "r1"
    page = olga.get("/dashboard/models").text
    assert "There is no version that could take its place." in page


def test_who_decides_on_a_page_that_is_out_of_date_changes_nothing(olga: Browser) -> None:
    with transaction() as session:
        first, second, _ = (
            make_version(session, "r1"),
            make_challenger(session, "r2"),
            make_version(session, "r3"),
        )
        run_id = make_run(session, RunStatus.KEPT, version=second).id
    for path in (f"/dashboard/models/{second.id}/promote", f"/dashboard/runs/{run_id}/promote"):
        answer = olga.post(path, {"instead_of": str(first.id)})
        assert answer.status_code == 409 and "r3 has become champion meanwhile" in answer.text
        assert olga.post(path).status_code == 400
    answer = olga.post("/dashboard/models/rollback", {"instead_of": str(first.id), "reason": "reals fell"})
    assert answer.status_code == 409
    assert champion_name() == "r3"
    with transaction() as session:
        assert runs.run_of(session, run_id).status is RunStatus.KEPT, "both or neither"


def test_a_rollback_needs_a_reason_and_brings_back_what_the_page_said(olga: Browser) -> None:
    with transaction() as session:
        make_version(session, "r1")
        now = make_version(session, "r2")
    assert "Roll back to r1?" in olga.get("/dashboard/models").text
    data = {"instead_of": str(now.id)}
    assert olga.post("/dashboard/models/rollback", {**data, "reason": "  "}).status_code == 400
    assert champion_name() == "r2"
    assert olga.post("/dashboard/models/rollback", {**data, "reason": "reals fell"}).status_code == 303
    assert champion_name() == "r1"
    assert (events(EventType.MODEL_PROMOTED)[-1].after or {})["rollback"] is True


def test_a_lead_or_administrator_of_one_platform_does_not_choose_for_all(
    browser_of: Callable[..., Browser], tenant: Tenant
) -> None:
    with transaction() as session:
        first, second = make_version(session, "r1"), make_challenger(session, "r2")
        run_id = make_run(session, RunStatus.KEPT, version=second).id
    admin = browser_of(Role.ADMIN)
    assert "only operators promote" in admin.get("/dashboard/models").text
    data = {"instead_of": str(first.id), "reason": "I would like to"}
    for path in (
        f"/dashboard/models/{second.id}/promote",
        "/dashboard/models/rollback",
        "/dashboard/runs",
        f"/dashboard/runs/{run_id}/promote",
        f"/dashboard/runs/{run_id}/reject",
        f"/dashboard/runs/{run_id}/cancel",
    ):
        answer = admin.post(path, data)
        assert answer.status_code == 403 and "only an operator may do it" in answer.text
    for path in ("/dashboard/runs", f"/dashboard/runs/{run_id}", f"/dashboard/runs/{run_id}/report"):
        assert admin.get(path).status_code == 403
    assert champion_name() == "r1"


def test_an_operator_who_is_none_any_more_is_refused_at_once(olga: Browser) -> None:
    assert olga.get("/dashboard/runs").status_code == 200
    assert olga.user is not None
    with transaction() as session:
        accounts.set_operator(session, session.get_one(User, olga.user.id), False, actor="test")
    assert olga.get("/dashboard/runs").status_code == 403
    assert [event.type for event in events(EventType.OPERATOR_REVOKED)] == [EventType.OPERATOR_REVOKED]


def test_a_run_is_asked_for_once_and_cancelled(olga: Browser) -> None:
    assert "No run yet" in olga.get("/dashboard/runs").text
    first, again = (olga.post("/dashboard/runs").headers["Location"] for _ in range(2))
    assert first.partition("?")[0] == again.partition("?")[0]
    assert ("said=run_asked" in first, "said=run_there" in again) == (True, True)
    path = first.partition("?")[0]
    page = olga.get(path).text
    assert "waits for a retraining worker" in page and str(olga.user and olga.user.email) in page
    assert olga.post(f"{path}/cancel").status_code == 303
    assert olga.post(f"{path}/cancel").status_code == 409
    with transaction() as session:
        assert session.query(TrainingRun).one().status is RunStatus.CANCELLED


def test_a_runs_page_has_words_for_each_reason_to_leave_a_case_out() -> None:
    assert set(LEFT_OUT) == set(LeftOut) - {LeftOut.NO_CONSENT}, "of platforms that allow no training, nothing"


@pytest.mark.parametrize("status", list(RunStatus))
def test_a_runs_page_says_how_it_ended(olga: Browser, status: RunStatus) -> None:
    with transaction() as session:
        version = make_challenger(session, "r2")
        run = make_run(session, status, version=version)
    page = olga.get(f"/dashboard/runs/{run.id}").text
    assert olga.get("/dashboard/runs").text.count(str(run.id)) == 1
    assert "412, 187 of them new" in page
    assert "no_consent" not in page and "71:" not in page, "of platforms that allow no training, nothing"
    for finding in run.numbers.get("gate", {}).get("findings", ()):
        assert str(escape(finding["title"])) in page
    assert ("Reject</button>" in page) == (status is RunStatus.KEPT)
    assert ("Cancel the run" in page) == (status in runs.LIVE)


def test_the_proposed_thresholds_lead_to_the_platforms_page_and_are_set_there_when_saved(
    olga: Browser, tenant: Tenant
) -> None:
    with transaction() as session:
        version = make_version(session, "r2")
        run = make_run(session, RunStatus.PROMOTED, version=version)
        make_case(session, session.get_one(Tenant, tenant.id), CaseStatus.DECIDED)
    proposed = run.numbers["calibrate"]["thresholds"]
    fake_from, real_up_to = proposed["fake_from"], proposed["real_up_to"]
    path = f"/dashboard/platforms/{tenant.id}/thresholds?fake_from={fake_from}&amp;real_up_to={real_up_to}"
    assert path in olga.get(f"/dashboard/runs/{run.id}").text
    page = olga.get(path.replace("&amp;", "&")).text
    assert f'aria-valuetext="{fake_from}"' in page and f'aria-valuetext="{real_up_to}"' in page
    for odd in ("fake_from=x", "fake_from=nan&real_up_to=0.1", "fake_from=0.1&real_up_to=0.9", "fake_from=2"):
        assert olga.get(f"/dashboard/platforms/{tenant.id}/thresholds?{odd}").status_code == 200


def test_the_report_is_shown_in_a_sandbox_or_kept_as_a_file(olga: Browser, bucket: str) -> None:
    with transaction() as session:
        run = make_run(session, RunStatus.KEPT, version=make_challenger(session, "r2"))
    path = f"/dashboard/runs/{run.id}/report"
    assert olga.get(path).status_code == 404
    Storage(settings()).put(report_key(run.id), numbers(0.78)[2].encode(), "text/html")
    answer = olga.get(path)
    assert answer.status_code == 200 and "The gate" in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox; default-src 'none'") and "script-src" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
    kept = olga.get(f"{path}?download")
    assert kept.headers["Content-Disposition"] == f'attachment; filename="run-{run.id}.html"'


def test_workers_that_did_not_take_the_champion_are_named(olga: Browser) -> None:
    with transaction() as session:
        now = make_version(session, "r2")
        model_versions.swap_refused(session, now, worker="gpu-1:7", serving="r1", reason="<b>differs", again=False)
        model_versions.swap_refused(session, now, worker="gpu-2:8", serving="r1", reason="store away", again=True)
        model_versions.swapped(session, now, worker="gpu-2:8", instead_of="r1", seconds=2.0)
    page = olga.get("/dashboard/models").text
    assert "gpu-1:7 did not take r2" in page and "&lt;b&gt;differs" in page
    assert "gpu-2:8 did not take" not in page and "2.0 s after the promotion" in page
    with transaction() as session:
        make_version(session, "r3")
    assert "gpu-1:7" not in olga.get("/dashboard/models").text, "of another promotion"


def test_judging_again_is_asked_for_on_ones_own_platforms(browser_of: Callable[..., Browser], tenant: Tenant) -> None:
    with transaction() as session:
        make_version(session, "r1")
        ours = make_case(session, session.get_one(Tenant, tenant.id), CaseStatus.IN_REVIEW)
        make_case(session, make_tenant(session), CaseStatus.IN_REVIEW)
        make_version(session, "r2")
    lead = browser_of(Role.LEAD)
    assert lead.post("/dashboard/models/rejudge").headers["Location"].endswith("said=rejudging_asked")
    assert lead.post("/dashboard/models/rejudge").headers["Location"].endswith("said=rejudging_none")
    with transaction() as session:
        assert [row.case_id for row in session.query(Rejudging)] == [ours.id]


def test_a_drop_of_the_champion_is_the_first_thing_a_lead_sees(browser_of: Callable[..., Browser]) -> None:
    with transaction() as session:
        version = make_version(session, "r1")
        make_night(session, version, (0.93, 0.9, 0.9, 0.9, 0.9), ago=timedelta(days=2))
        make_night(
            session,
            version,
            (0.88, 0.9, 0.9, 0.9, 0.9),
            ago=timedelta(hours=3),
            change=Interval(-0.05, -0.08, -0.02),
        )
    lead = browser_of(Role.LEAD)
    assert "The champion has got worse." in lead.get("/dashboard").text
    page = lead.get("/dashboard/models").text
    assert "Held-out images, as sent: 88.0 % (85.0 to 91.0), -5.0 points (-8.0 to -2.0)" in page
    assert "The champion has got worse." not in browser_of(Role.MODERATOR).get("/dashboard").text
    table = lead.get("/dashboard/models/panel.csv").text
    assert table.count("Held-out images, as sent") == 2 and table.splitlines()[0].startswith("Measured,Version,Set")
    with transaction() as session:
        make_version(session, "r2")
    assert "The champion has got worse." not in lead.get("/dashboard").text, "another one judges by now"
