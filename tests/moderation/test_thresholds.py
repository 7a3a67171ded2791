"""What thresholds would have done, by hand over a small past; and putting a pair in force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select

from moderation import tenants, thresholds
from moderation.db import transaction
from moderation.errors import Conflict, InvalidRequest, NotFound
from moderation.estimates import wilson
from moderation.policy import Thresholds, judge
from moderation.tables import Event, ModelVersion, Policy, Tenant, User
from moderation.thresholds import Line, Outlook, grid
from moderation.vocabulary import Answer, EventType, ExplainMode, Label, ReviewReason
from tests.factories import make_tenant, make_version
from tests.history import Past, Said, make_past, past_of
from tests.reviewing import make_person

NOW = datetime(2026, 5, 20, 15, tzinfo=UTC)
AUDIT = ReviewReason.AUDIT


class Platform:
    """A platform of the default policy, with a champion, a reviewer, and a past to be written."""

    def __init__(self) -> None:
        with transaction() as session:
            self.tenant: Tenant = make_tenant(session)
            self.version: ModelVersion = make_version(session)
            self.anna = session.get_one(User, make_person(session, self.tenant).user_id)
            self.past: Past = past_of(session, self.tenant, self.version)

    def cases(self, count: int, p_fake: float, answer: Answer | None = None, **more: object) -> None:
        """Ten days old; with an answer they were reviewed, with an audit's probability as an audit."""
        reason = AUDIT if "audit_probability" in more else ReviewReason.UNCERTAIN
        said = [] if answer is None else [Said(self.anna, answer, more.pop("reason", reason))]  # type: ignore[arg-type]
        for _ in range(count):
            make_past(self.past, NOW - timedelta(days=10), p_fake, said, **more)  # type: ignore[arg-type]

    def outlook(self, champion: UUID | None = None) -> Outlook:
        with transaction() as session:
            self.past.write(session)
            for rows in self.past.rows.values():
                rows.clear()
        with transaction() as session:
            return thresholds.outlook(session, self.tenant.id, champion or self.version.id, NOW)


@pytest.fixture
def platform(db: Engine) -> Platform:
    return Platform()


def at(lines: list[Line], threshold: float) -> Line:
    return next(line for line in lines if line.threshold == threshold)


def test_every_threshold_counts_what_the_policy_would_have_decided(platform: Platform) -> None:
    """To the bit, also where a score is a threshold."""
    scores = [0.0, 0.07, 0.15, 0.29, 0.3, 0.5, 0.57, 0.58, 0.85, 0.9999, 1.0]
    for score in scores:
        platform.cases(1, score)
    found = platform.outlook()
    assert (found.cases, found.unreadable, found.days) == (len(scores), 0, 10.0)
    for line in found.fakes:
        if line.threshold > 0:
            said = [judge(score, 1, Thresholds(line.threshold, 0.0)).label for score in scores]
            assert line.cases == said.count(Label.FAKE), line.threshold
    for line in found.reals:
        if line.threshold < 1:
            said = [judge(score, 1, Thresholds(1.0, line.threshold)).label for score in scores]
            assert line.cases == said.count(Label.REAL), line.threshold


def test_thresholds_in_force_can_be_chosen_whatever_they_are(platform: Platform) -> None:
    with transaction() as session:
        tenants.set_policy(session, platform.tenant.id, Thresholds(0.87654, 0.1234))
    found = platform.outlook()
    values = [line.threshold for line in found.fakes]
    assert values == grid(0.1234, 0.87654) and len(values) == 103


def test_audits_are_weighted_and_strata_stand_for_all_their_cases(platform: Platform) -> None:
    platform.cases(70, 0.9)
    platform.cases(24, 0.9, Answer.FAKE, audit_probability=0.1)
    platform.cases(6, 0.9, Answer.REAL, audit_probability=0.1)  # so 100 decided fake, of which 80 are
    platform.cases(50, 0.6, Answer.FAKE)
    platform.cases(50, 0.6, Answer.REAL)
    platform.cases(100, 0.6)  # so 200 for people, of which 100 are fake
    found = platform.outlook()
    in_force, lower = at(found.fakes, 0.85), at(found.fakes, 0.55)
    assert (in_force.cases, lower.cases) == (100, 300)
    assert in_force.precision.found is not None
    by_hand = wilson(0.8, 30)
    assert in_force.precision.found.value == pytest.approx(by_hand.value)
    assert in_force.precision.found.low == pytest.approx(by_hand.low)
    assert lower.precision.found is not None
    assert lower.precision.found.value == pytest.approx((80 + 100) / 300)
    assert lower.precision.effective == pytest.approx(300**2 / (30 * (100 / 30) ** 2 + 100 * 2**2))
    assert (found.seen.reviews, found.seen.blind, found.seen.audits) == (100, 0, 30)
    assert not in_force.unseen


def test_without_audits_the_automatic_zones_are_unseen(platform: Platform) -> None:
    platform.cases(50, 0.95)
    platform.cases(30, 0.8, Answer.FAKE)
    found = platform.outlook()
    assert at(found.fakes, 0.85).unseen and at(found.fakes, 0.85).precision.found is None
    lower = at(found.fakes, 0.7)
    assert lower.unseen, "what people answered between the thresholds says nothing of what lies beyond"
    assert not at(found.reals, 0.8).unseen and at(found.reals, 0.8).precision.found == wilson(0, 30)


def test_what_says_nothing_is_left_out(platform: Platform) -> None:
    platform.cases(5, 0.5, Answer.CANNOT_TELL)
    platform.cases(5, 0.5, Answer.FAKE, pair_mass=0.1)
    platform.cases(5, 0.95, Answer.REAL, reason=ReviewReason.APPEAL)
    platform.cases(5, 0.5, failed=True)
    platform.past.version = platform.version
    make_past(platform.past, NOW - timedelta(days=100), 0.5, [Said(platform.anna, Answer.FAKE)])
    found = platform.outlook()
    assert (found.seen.reviews, found.seen.audits) == (0, 0)
    assert (found.cases, found.unreadable) == (15, 5)


def test_an_audit_that_is_appealed_is_an_audit_still(platform: Platform) -> None:
    """The lot was drawn before; likely errors are appealed, and would be missing otherwise."""
    platform.cases(15, 0.95, Answer.FAKE, audit_probability=0.5)
    platform.cases(15, 0.95, Answer.REAL, audit_probability=0.5, reason=ReviewReason.APPEAL)
    found = platform.outlook()
    assert found.seen.audits == 30
    assert at(found.fakes, 0.85).precision.found == wilson(0.5, 30)


def test_another_versions_verdicts_and_anothers_cases_are_left_out(platform: Platform) -> None:
    platform.cases(5, 0.5, Answer.FAKE)
    with transaction() as session:
        newer = make_version(session)
        other = past_of(session, make_tenant(session), newer)
        make_past(other, NOW - timedelta(days=1), 0.5, [Said(platform.anna, Answer.FAKE)])
        other.write(session)
    found = platform.outlook(newer.id)
    assert (found.cases, found.seen.reviews, found.days) == (0, 0, 0.0)
    with transaction() as session:
        assert thresholds.outlook(session, platform.tenant.id, None, NOW).cases == 0


def test_bars_are_answers_by_score(platform: Platform) -> None:
    platform.cases(2, 0.5, Answer.FAKE)
    platform.cases(3, 0.549, Answer.REAL)
    platform.cases(4, 1.0, Answer.FAKE, audit_probability=0.5)
    bars = platform.outlook().bars
    assert (bars[Label.FAKE][10], bars[Label.REAL][10], bars[Label.FAKE][19]) == (2, 3, 4)
    assert sum(bars[Label.FAKE]) + sum(bars[Label.REAL]) == 9


def test_a_change_is_a_new_version_with_a_name_beside_it(platform: Platform) -> None:
    chosen = Thresholds(0.7, 0.2, 0.4, ExplainMode.REVIEW)
    with transaction() as session:
        actor = f"user:{platform.anna.id}"
        made = thresholds.change(session, platform.tenant.id, chosen, actor=actor, instead_of=1)
    assert made.version == 2
    with transaction() as session:
        assert thresholds.thresholds_of(tenants.policy_of(session, platform.tenant.id)) == chosen
        event = session.scalars(select(Event).where(Event.type == EventType.POLICY_CHANGED)).one()
        assert event.before is not None and event.after is not None
        assert (event.before["version"], event.after["version"], event.data) == (1, 2, None)
        assert (event.before["fake_from"], event.after["fake_from"]) == (0.85, 0.7)
        newest, first = thresholds.versions(session, platform.tenant.id)
        assert (newest.policy.version, newest.by) == (2, platform.anna.email)
        assert (first.policy.version, first.by) == (1, None)


def test_what_is_in_force_already_stays(platform: Platform) -> None:
    with transaction() as session:
        kept = thresholds.change(session, platform.tenant.id, Thresholds(), actor="test", instead_of=1)
        assert kept.version == 1
        assert session.scalar(select(func.count()).where(Event.type == EventType.POLICY_CHANGED)) == 0


def test_who_saw_an_older_version_is_told(platform: Platform) -> None:
    with transaction() as session:
        thresholds.change(session, platform.tenant.id, Thresholds(0.7), actor="test", instead_of=1)
    with pytest.raises(Conflict, match="Version 2 was put in force meanwhile"), transaction() as session:
        thresholds.change(session, platform.tenant.id, Thresholds(0.6), actor="test", instead_of=1)


@pytest.mark.parametrize("chosen", [Thresholds(0.2, 0.2), Thresholds(1.1, 0.2), Thresholds(0.5, -0.1)])
def test_thresholds_that_cannot_be_are_refused(platform: Platform, chosen: Thresholds) -> None:
    with pytest.raises(InvalidRequest), transaction() as session:
        thresholds.change(session, platform.tenant.id, chosen, actor="test", instead_of=1)
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Policy)) == 1


def test_one_of_the_versions_by_its_number(platform: Platform) -> None:
    with transaction() as session:
        assert thresholds.version_of(session, platform.tenant.id, 1).version == 1
        with pytest.raises(NotFound):
            thresholds.version_of(session, platform.tenant.id, 2)
