"""Insight, thresholds and models in process: whose figures they are, files, and what no form of ours sends."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest

from api.dashboard import figures, plots
from api.dashboard.insight_parts import PARTS
from api.dashboard.plots import Series
from moderation import tenants
from moderation.db import new_id, transaction
from moderation.estimates import Interval, Observation, Share, share
from moderation.tables import Tenant, User
from moderation.vocabulary import Answer, ExplainMode, ReviewReason, Role
from tests.api.dashboard.conftest import Browser
from tests.factories import make_tenant, make_version
from tests.history import Said, make_past, past_of
from tests.reviewing import make_person

Browsers = Callable[..., Browser]
SAVED = {"real_up_to": "0.2", "fake_from": "0.7", "min_pair_mass": "0.5", "explain": "review", "instead_of": "1"}


def yesterday() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def past(tenant: Tenant) -> None:
    """Of Pixelgram: one fake by policy, one case in review. Of a stranger: three of a secret category."""
    with transaction() as session:
        version = make_version(session, "v1")
        ours, theirs = past_of(session, tenant, version), past_of(session, make_tenant(session, "Stranger"), version)
        anna = session.get_one(User, make_person(session, tenant).user_id)
        make_past(ours, yesterday(), 0.95, category="=food()")
        make_past(ours, yesterday(), 0.5)
        make_past(ours, yesterday(), 0.5, [Said(anna, Answer.FAKE)])
        for _ in range(3):
            make_past(theirs, yesterday(), 0.95, [Said(anna, Answer.REAL, ReviewReason.AUDIT)], category="secret")
        ours.write(session)
        theirs.write(session)


def rows(browser: Browser, name: str, query: str = "") -> list[dict[str, str]]:
    answer = browser.get(f"/dashboard/insight/{name}.csv{query}")
    assert (answer.status_code, answer.mimetype) == (200, "text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


@pytest.mark.usefixtures("past")
def test_figures_are_those_of_the_platforms_one_leads(browser_of: Browsers, tenant: Tenant) -> None:
    lead = browser_of(Role.LEAD)
    page = lead.get("/dashboard/insight?days=7").text
    assert "3 cases arrived" in page and "secret" not in page
    assert sum(int(row["fake by policy"]) for row in rows(lead, "volume")) == 1
    assert sum(int(row["in review"]) for row in rows(lead, "volume", f"?tenant={tenant.id}&days=90")) == 1
    with transaction() as session:
        stranger = tenants.tenant_named(session, "Stranger")
    assert lead.get(f"/dashboard/insight?tenant={stranger.id}").status_code == 404
    assert lead.get(f"/dashboard/insight/volume.csv?tenant={stranger.id}").status_code == 404


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_a_file_with_the_rows_of_its_table(browser_of: Browsers, name: str) -> None:
    lead = browser_of(Role.LEAD)
    answer = lead.get(f"/dashboard/insight/{name}.csv?days=7")
    assert f"telltale-{name}-" in answer.headers["Content-Disposition"]
    page = lead.get("/dashboard/insight?days=7").text
    columns, *lines = csv.reader(io.StringIO(answer.text))
    offered = f"/dashboard/insight/{name}.csv?days=7" in page
    assert offered == bool(lines), "where the page's own selection is downloaded, if there is anything"
    assert columns and all(line[0].removeprefix("'") in page for line in lines)


@pytest.mark.parametrize("query", ["days=8", "days=x", "days=", "tenant=x", "version=x"])
def test_what_cannot_be_shown_is_said(browser_of: Browsers, query: str) -> None:
    assert browser_of(Role.LEAD).get(f"/dashboard/insight?{query}").status_code == 400


def test_odd_selections_show_nothing_and_break_nothing(browser_of: Browsers) -> None:
    lead = browser_of(Role.LEAD)
    for query in (f"version={new_id()}", "category=%00", "category=<blink>", f"tenant={new_id()}"):
        answer = lead.get(f"/dashboard/insight?{query}")
        assert answer.status_code == (404 if "tenant" in query else 200)
        assert "<blink>" not in answer.text
    assert lead.get("/dashboard/insight/nothing.csv").status_code == 404


@pytest.mark.usefixtures("past")
def test_a_spreadsheet_runs_nothing_that_a_platform_said(browser_of: Browsers) -> None:
    assert figures.Table("x", "x", ["a"], [["=1+1"], ["-x"], [3]]).csv().split() == ["a", "'=1+1", "'-x", "3"]


def test_saving_thresholds_makes_a_version(browser_of: Browsers, tenant: Tenant) -> None:
    lead, path = browser_of(Role.LEAD), f"/dashboard/platforms/{tenant.id}/thresholds"
    answer = lead.post(path, SAVED)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{path}?said=policy_saved")
    with transaction() as session:
        policy = tenants.policy_of(session, tenant.id)
    assert (policy.version, policy.fake_from, policy.explain) == (2, 0.7, ExplainMode.REVIEW)
    again = lead.post(path, {**SAVED, "instead_of": "2"})
    assert again.headers["Location"] == f"{path}?said=policy_kept"
    late = lead.post(path, {**SAVED, "fake_from": "0.6"})
    assert late.status_code == 409 and "put in force meanwhile" in late.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"fake_from": "0.1"},
        {"fake_from": "nan"},
        {"real_up_to": "x"},
        {"min_pair_mass": "2"},
        {"min_pair_mass": "nan"},
        {"explain": "never"},
        {"instead_of": ""},
    ],
    ids=str,
)
def test_thresholds_that_cannot_be_are_refused_on_the_page(
    browser_of: Browsers, tenant: Tenant, wrong: dict[str, str]
) -> None:
    answer = browser_of(Role.LEAD).post(f"/dashboard/platforms/{tenant.id}/thresholds", {**SAVED, **wrong})
    assert answer.status_code == 400
    assert "Nothing was saved." in answer.text
    with transaction() as session:
        assert tenants.policy_of(session, tenant.id).version == 1


def test_models_say_what_is_a_demo_and_what_was_not_measured(browser_of: Browsers, tenant: Tenant) -> None:
    with transaction() as session:
        demo = make_version(session, "demo-1")
        demo.manifest = {**demo.manifest, "metrics": {"auc": 0.97391, "robust": {"jpeg": None}}}
        make_version(session, "demo-2", champion=False)
    page = browser_of(Role.LEAD).get("/dashboard/models").text
    assert "demo model, not FakeVLM" in page and "0.9739" in page and "not measured" in page
    assert "only operators promote a version" in page and "Promote demo-2" not in page


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "0 %"), (1.0, "100 %"), (0.9999, "over 99.9 %"), (0.0001, "under 0.1 %"), (0.5, "50 %")]
)
def test_what_is_not_all_is_not_shown_as_all(value: float, words: str) -> None:
    assert figures.percent(value).replace("\u00a0", " ") == words


def test_too_few_is_said_in_words() -> None:
    assert figures.share(Share(0, 0, None), "audits") == "no audits"
    assert figures.share(share([Observation(True, count=7)])) == "too few to say: 7 of 20 answers"
    lopsided = share([Observation(True, 1000, 2), Observation(False, 1, 50)])
    assert "a few with most of the weight" in figures.share(lopsided)
    assert figures.share(share([Observation(True, count=40)])).replace("\u00a0", " ") == "100 % (91.2 to 100.0 %)"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min"),
        (3599, "1 h 0 min"),
        (90_000, "25 h 0 min"),
        (1e6, "11 d 13 h"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert figures.span(seconds) == words


DAYS = [date(2026, 5, 1) + timedelta(days=n) for n in range(7)]


def test_bars_fill_the_plot_and_stand_on_each_other() -> None:
    drawn = plots.bars(DAYS, [Series("a", "good", [4] * 7), Series("b", "bad", [6] * 7)])
    first, second = drawn.boxes[:2]
    assert first.y + first.height == plots.HIGH - plots.BOTTOM
    assert second.y + second.height == pytest.approx(first.y)
    assert drawn.y[-1].words == "12" or drawn.y[-1].words == "10"
    assert first.words == "1 May: 4 a"


@pytest.mark.parametrize("values", [[], [0], [None], [1e9], [0.0005], [1e8]])
def test_no_number_breaks_a_plot(values: list[float | None]) -> None:
    series = [Series("a", "good", values)]
    days = DAYS[: len(values)]
    for drawn in (plots.bars(days, series), plots.lines(days, series), plots.durations(days, series)):
        assert all(0 <= tick.at <= plots.WIDE for tick in [*drawn.x, *drawn.y])


def test_a_line_is_broken_where_there_is_nothing_and_a_lonely_point_is_a_dot() -> None:
    (curve,) = plots.lines(DAYS, [Series("a", "good", [1, 2, None, 3, None, 4, 5])]).curves
    assert curve.path.count("M") == 3 and len(curve.dots) == 1


def test_intervals_are_drawn_where_they_lie() -> None:
    drawn = plots.intervals([("x", [(Interval(0.9, 0.8, 0.95), "", "good"), (None, "too few", "bad")])], ())
    known, unknown = drawn.rows[0].marks
    assert known.at is not None and known.low < known.at < known.high <= plots.WIDE
    assert (unknown.at, unknown.words) == (None, "too few")
