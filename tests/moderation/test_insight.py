"""The figures of the insight pages, counted by hand over a small past."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import Engine, update

from moderation import accuracy, insight
from moderation.db import transaction
from moderation.insight import Outcome, Selection
from moderation.tables import Case, ModelVersion, Tenant, User
from moderation.vocabulary import Answer, CaseStatus, ReviewReason
from tests.factories import make_case, make_tenant, make_version
from tests.history import Past, Said, make_past, make_plausible_past, past_of
from tests.reviewing import make_person

NOW = datetime(2026, 5, 20, 15, 0, tzinfo=UTC)
TODAY = NOW.date()


class Platform:
    """A platform with two reviewers and a past to be written."""

    def __init__(self) -> None:
        with transaction() as session:
            self.tenant: Tenant = make_tenant(session)
            self.version: ModelVersion = make_version(session)
            people = [make_person(session, self.tenant) for _ in range(2)]
            self.anna, self.bert = (session.get_one(User, person.user_id) for person in people)
            self.past: Past = past_of(session, self.tenant, self.version)

    def write(self) -> None:
        with transaction() as session:
            self.past.write(session)

    def selection(self, days: int = 7, **more: object) -> Selection:
        return Selection((self.tenant.id,), TODAY - timedelta(days=days - 1), TODAY, **more)  # type: ignore[arg-type]

    def audited(self, count: int, p_fake: float, answer: Answer, probability: float = 0.1) -> None:
        for _ in range(count):
            said = [Said(self.anna, answer, ReviewReason.AUDIT)]
            make_past(self.past, at(1), p_fake, said, audit_probability=probability)


@pytest.fixture
def platform(db: Engine) -> Platform:
    return Platform()


def at(days_ago: float, hour: int = 9) -> datetime:
    return datetime.combine(TODAY - timedelta(days=days_ago), time(hour), UTC)


def test_volume_has_every_day_and_every_outcome(platform: Platform) -> None:
    past = platform.past
    make_past(past, at(0), 0.95)
    make_past(past, at(1), 0.05)
    make_past(past, at(1), 0.5)
    make_past(past, at(1), 0.5, [Said(platform.anna, Answer.REAL)])
    make_past(past, at(2), 0.5, failed=True)
    make_past(past, at(7), 0.95)
    platform.write()
    with transaction() as session:
        waiting = make_case(session, platform.tenant)
        waiting.created_at = at(0)
        other = make_past(past_of(session, make_tenant(session), platform.version), at(0), 0.95)
    assert other is not None
    with transaction() as session:
        found = insight.arrivals(session, platform.selection()).by_day
    assert list(found) == platform.selection().days
    assert found[TODAY] == {Outcome.POLICY_FAKE: 1, Outcome.UNDER_WAY: 1}
    assert found[TODAY - timedelta(days=1)] == {
        Outcome.POLICY_REAL: 1,
        Outcome.IN_REVIEW: 1,
        Outcome.MODERATOR_REAL: 1,
    }
    assert found[TODAY - timedelta(days=2)] == {Outcome.FAILED: 1}
    assert sum(found[TODAY - timedelta(days=6)].values()) == 0, "the eighth day is not of the seven"


def test_a_category_and_a_version_narrow_everything(platform: Platform) -> None:
    make_past(platform.past, at(0), 0.95, category="food")
    make_past(platform.past, at(0), 0.95, category="portrait")
    make_past(platform.past, at(0), 0.5, category="food")
    platform.write()
    with transaction() as session:
        assert insight.categories(session, platform.selection()) == ["food", "portrait"]
        food = platform.selection(category="food")
        assert insight.arrivals(session, food).by_day[TODAY] == {Outcome.POLICY_FAKE: 1, Outcome.IN_REVIEW: 1}
        assert insight.backlog(session, food, NOW).depths[TODAY] == 1
        other = platform.selection(model_version_id=make_version(session, champion=False).id)
        assert sum(insight.arrivals(session, other).by_day[TODAY].values()) == 0
        assert insight.backlog(session, other, NOW).depths[TODAY] == 0


def test_the_backlog_is_counted_back_from_now(platform: Platform) -> None:
    past = platform.past
    make_past(past, at(20), 0.5)  # waits since before the span
    make_past(past, at(4), 0.5, [Said(platform.anna, Answer.FAKE, after=timedelta(days=2))])
    make_past(past, at(3), 0.5, [Said(platform.anna, Answer.FAKE)])
    make_past(past, NOW - timedelta(hours=2), 0.5)
    make_past(past, at(1), 0.95)
    platform.write()
    with transaction() as session:
        found = insight.backlog(session, platform.selection(), NOW)
    assert list(found.depths.values()) == [1, 1, 2, 2, 1, 1, 2]
    assert found.waits == {
        "under 1 hour": 0,
        "1 to 4 hours": 1,
        "4 hours to 1 day": 0,
        "1 to 3 days": 0,
        "3 to 7 days": 0,
        "over 7 days": 1,
    }
    assert found.oldest is not None and found.oldest.date() == TODAY - timedelta(days=20)


def test_an_audit_that_waits_is_in_the_backlog_and_its_case_decided(platform: Platform) -> None:
    make_past(platform.past, at(1), 0.95, audit_probability=0.1)
    platform.write()
    with transaction() as session:
        assert insight.arrivals(session, platform.selection()).by_day[TODAY - timedelta(days=1)] == {
            Outcome.POLICY_FAKE: 1
        }
        assert insight.backlog(session, platform.selection(), NOW).depths[TODAY] == 1


def test_times_are_half_and_nineteen_of_twenty(platform: Platform) -> None:
    for seconds in range(1, 21):
        make_past(platform.past, at(1), 0.95, screened_in=timedelta(seconds=seconds))
    for hours in (1, 2, 3):
        make_past(platform.past, at(2, 0), 0.5, [Said(platform.anna, Answer.FAKE, after=timedelta(hours=hours))])
    make_past(platform.past, at(2), 0.5, [Said(platform.anna, Answer.CANNOT_TELL)])
    make_past(platform.past, at(1), 0.95, [Said(platform.anna, Answer.FAKE, ReviewReason.AUDIT)], audit_probability=0.5)
    platform.write()
    with transaction() as session:
        automatic = insight.arrivals(session, platform.selection()).automatic
        review = insight.review_speed(session, platform.selection())
    assert automatic.whole is not None and automatic.whole.n == 20
    assert (automatic.whole.p50, automatic.whole.p95) == (pytest.approx(10, rel=0.006), pytest.approx(19, rel=0.006))
    assert automatic.by_day == {TODAY - timedelta(days=1): automatic.whole}
    assert review.whole is not None and review.whole.n == 3
    hours = (review.whole.p50 / 3600, review.whole.p95 / 3600)
    assert hours == (pytest.approx(2, rel=0.006), pytest.approx(3, rel=0.006))


def test_nothing_decided_has_no_time(platform: Platform) -> None:
    with transaction() as session:
        assert insight.arrivals(session, platform.selection()).automatic == insight.Speed(None, {})


def test_an_overturned_audit_still_counts_as_what_the_policy_had_said(platform: Platform) -> None:
    platform.audited(20, 0.95, Answer.REAL)
    platform.write()
    with transaction() as session:
        found = accuracy.audits(session, platform.selection())
        assert found.errors.found is not None and found.errors.found.value == 1.0
        assert insight.arrivals(session, platform.selection()).by_day[at(1).date()] == {Outcome.MODERATOR_REAL: 20}


def test_anothers_cases_are_not_counted(platform: Platform) -> None:
    with transaction() as session:
        stranger = past_of(session, make_tenant(session), platform.version)
        said = [Said(platform.anna, Answer.FAKE)]
        make_past(stranger, at(1), 0.5, said, category="secret")
        make_past(stranger, at(1), 0.95, [Said(platform.anna, Answer.FAKE, ReviewReason.AUDIT)], audit_probability=0.1)
        make_past(stranger, at(1), 0.5)
        stranger.write(session)
    with transaction() as session:
        selection = platform.selection()
        assert insight.categories(session, selection) == []
        assert sum(sum(day.values()) for day in insight.arrivals(session, selection).by_day.values()) == 0
        assert set(insight.backlog(session, selection, NOW).depths.values()) == {0}
        assert accuracy.audits(session, selection).errors.n == 0
        assert accuracy.reviewers(session, selection).with_model.seeing.n == 0
        assert insight.review_speed(session, selection).whole is None


def test_a_plausible_past_adds_up(platform: Platform) -> None:
    users = [platform.anna, platform.bert]
    with transaction() as session:
        make_plausible_past(session, platform.tenant, platform.version, users, NOW, days=30)
        selection = platform.selection(30)
        volume = insight.arrivals(session, selection).by_day
        backlog = insight.backlog(session, selection, NOW)
    arrived = sum(sum(day.values()) for day in volume.values())
    assert 1200 < arrived < 2600
    with transaction() as session:
        session.execute(update(Case).where(Case.status == CaseStatus.DECIDED).values(settled_at=None))
        again = insight.arrivals(session, selection).by_day
    assert sum(sum(day.values()) for day in again.values()) == arrived, "both parts are counted, and once"
    assert backlog.depths[TODAY] == sum(backlog.waits.values())
    assert all(depth >= 0 for depth in backlog.depths.values())
    assert isinstance(min(backlog.depths), date)
