"""Hours, hard images and stretches of work, each counted once and told to nobody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from moderation import claims, wellness
from moderation.accounts import Person
from moderation.db import new_id, transaction
from moderation.tables import Case, Claim, Review, Tenant
from moderation.vocabulary import Answer, ClaimEnd, ReviewReason
from tests.reviewing import make_person, make_review_case

MINUTE = timedelta(minutes=1)


@pytest.fixture
def anna(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant)


def claimed(who: Person, tenant: Tenant, ago: float, minutes: float | None, *, lease: float | None = None) -> Claim:
    """A claim begun so many minutes ago, and ended after `minutes`, or never."""
    began = datetime.now(UTC) - ago * MINUTE
    with transaction() as session:
        case = make_review_case(session, tenant)
        made = Claim(
            id=_id_of(began),
            case_id=case.id,
            user_id=who.user_id,
            fence=1,
            claimed_at=began,
            lease_until=began + (lease or minutes or 0) * MINUTE + claims.LEASE,
            ended_at=began + minutes * MINUTE if minutes is not None else None,
            end=ClaimEnd.ANSWERED if minutes is not None else None,
        )
        session.add(made)
        return made


def _id_of(moment: datetime) -> object:
    """An id as it would have been made then."""
    made = new_id()
    return type(made)(int=(int(moment.timestamp() * 1000) << 80) | (made.int & ((1 << 80) - 1)))


def marked(claim: Claim, *, undone: bool = False) -> None:
    """An answer under this claim, which says that the image was disturbing."""
    with transaction() as session:
        case = session.get_one(Case, claim.case_id)
        session.add(
            Review(
                tenant_id=case.tenant_id,
                case_id=case.id,
                claim_id=claim.id,
                user_id=claim.user_id,
                reason=ReviewReason.UNCERTAIN,
                answer=Answer.FAKE,
                artifacts=[],
                blind=False,
                disturbing=True,
                due_at=claim.claimed_at,
                settled_at=None if undone else claim.claimed_at,
                undone_at=claim.claimed_at if undone else None,
            )
        )


def work(who: Person, span: timedelta = wellness.DAY) -> tuple[float, int]:
    with transaction() as session:
        found = wellness.work(session, who, span)
    return round(found.worked / MINUTE, 1), found.hard_images


def stretch(who: Person) -> int:
    with transaction() as session:
        return round(wellness.stretch(session, who) / MINUTE)


def test_nothing_done_is_nothing(anna: Person) -> None:
    assert (work(anna), stretch(anna)) == ((0.0, 0), 0)


def test_time_is_counted_once_however_many_cases_are_open(anna: Person, tenant: Tenant) -> None:
    claimed(anna, tenant, 100, 10)
    claimed(anna, tenant, 95, 10)
    claimed(anna, tenant, 60, 5)
    assert work(anna)[0] == pytest.approx(20, abs=1), "and not 25"


def test_who_went_away_worked_until_their_lease_ran_out(anna: Person, tenant: Tenant) -> None:
    claimed(anna, tenant, 100, 90, lease=8)
    assert work(anna)[0] == 10.0
    claimed(anna, tenant, 1, None, lease=30)
    assert work(anna)[0] == pytest.approx(11, abs=1), "what is still open counts until now"


def test_what_was_before_is_not_counted(anna: Person, tenant: Tenant) -> None:
    claimed(anna, tenant, 25 * 60, 30)
    marked(claimed(anna, tenant, 26 * 60, 30))
    assert (work(anna), work(anna, wellness.WEEK)) == ((0.0, 0), (60.0, 1))


def test_hard_images_are_those_marked_and_those_reported(anna: Person, tenant: Tenant) -> None:
    once = claimed(anna, tenant, 50, 1)
    marked(once)
    marked(claimed(anna, tenant, 40, 1), undone=True)
    reported = claimed(anna, tenant, 30, 1)
    claimed(anna, tenant, 20, 1)
    with transaction() as session:
        for claim in (once, reported):
            session.get_one(Case, claim.case_id).restricted = True
    assert work(anna)[1] == 2


def test_it_is_ones_own_work(anna: Person, tenant: Tenant) -> None:
    with transaction() as session:
        bert = make_person(session, tenant)
    marked(claimed(bert, tenant, 90, 80))
    assert (work(anna), stretch(anna)) == ((0.0, 0), 0)


def test_a_stretch_ends_with_five_minutes_away(anna: Person, tenant: Tenant) -> None:
    claimed(anna, tenant, 200, 60)
    for ago in (100, 60):
        claimed(anna, tenant, ago, 36)
    claimed(anna, tenant, 21, 20.5)
    assert stretch(anna) == 100
    with transaction() as session:
        made = make_person(session, tenant)
    claimed(made, tenant, 60, 54)
    assert stretch(made) == 0
