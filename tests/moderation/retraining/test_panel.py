"""The standing panel's arithmetic and audits: what is called worse, and whose decisions are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine

from moderation.accounts import Person
from moderation.db import transaction
from moderation.estimates import Interval
from moderation.retraining import panel
from moderation.tables import ModelVersion, Tenant
from moderation.vocabulary import Answer, CaseStatus, DecidedBy, Label, ReviewReason
from tests.factories import make_case, make_tenant, make_version
from tests.learning import make_review
from tests.reviewing import make_person


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        (Interval(-0.05, -0.08, -0.02), True),
        (Interval(-0.05, -0.12, 0.02), False),
        (Interval(-0.02, -0.03, -0.01), False),
        (Interval(0.05, 0.02, 0.08), False),
    ],
)
def test_worse_is_more_than_the_margin_and_not_by_chance(change: Interval, worse: bool) -> None:
    assert panel.has_drifted(change) == worse


def audited(version: UUID, now: datetime) -> panel.Measured:
    with transaction() as session:
        return panel.audited(session, version, now)


def decide(tenant: Tenant, person: Person, answers: list[Answer], *, ago: timedelta, probability: float = 0.1) -> None:
    """Cases that the policy decided as fake, so long ago, and what auditors answered."""
    with transaction() as session:
        for answer in answers:
            case = make_case(session, session.get_one(Tenant, tenant.id), CaseStatus.DECIDED)
            assert (case.decided_by, case.policy_label) == (DecidedBy.POLICY, Label.FAKE)
            case.audit_probability = probability
            case.created_at = datetime.now(UTC) - ago
            make_review(session, case, person, answer, reason=ReviewReason.AUDIT, decides=False)


def test_audits_are_the_champions_own_of_the_last_weeks_against_all_before(db: Engine) -> None:
    with transaction() as session:
        before: ModelVersion = make_version(session, "r1")
        tenant = make_tenant(session)
        person = make_person(session, tenant)
    decide(tenant, person, [Answer.FAKE] * 30, ago=timedelta(weeks=6))
    decide(tenant, person, [Answer.REAL] * 5, ago=timedelta(weeks=20))
    decide(tenant, person, [Answer.REAL] * 3, ago=timedelta(days=2))
    with transaction() as session:
        champion = make_version(session, "r2")
    decide(tenant, person, [Answer.FAKE] * 14 + [Answer.REAL] * 2 + [Answer.CANNOT_TELL], ago=timedelta(days=1))
    few = audited(champion.id, datetime.now(UTC))
    assert (few.value, few.images) == (None, 16) and "too few" in (few.note or "")
    decide(tenant, person, [Answer.REAL] * 8, ago=timedelta(days=1))
    found = audited(champion.id, datetime.now(UTC))
    assert found.value is not None and found.value.value == pytest.approx(14 / 24)
    assert (found.images, found.before) == (24, 1.0)
    assert found.change is not None and found.change.value == pytest.approx(14 / 24 - 1)
    assert panel.has_drifted(found.change)
    assert audited(before.id, datetime.now(UTC)).images == 3
    decide(tenant, person, [Answer.FAKE] * 24, ago=timedelta(days=1), probability=0.01)
    weighted = audited(champion.id, datetime.now(UTC))
    assert weighted.value is not None
    assert weighted.value.value == pytest.approx((14 * 10 + 24 * 100) / (24 * 10 + 24 * 100))
