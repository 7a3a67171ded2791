"""Claims: one person on one case, whatever comes at once, late or twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from moderation import claims, reviews
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import Conflict, Forbidden, LostLease, NotFound
from moderation.queue import Filter
from moderation.reviews import Reply
from moderation.tables import Case, Claim, Event, Tenant
from moderation.vocabulary import Answer, CaseStatus, ClaimEnd, EventType, Role
from tests.factories import events_of, make_case, make_tenant
from tests.reviewing import expire, make_person, make_review_case


def person(tenant: Tenant, role: Role = Role.MODERATOR) -> Person:
    with transaction() as session:
        return make_person(session, tenant, role=role)


def review_case(tenant: Tenant) -> UUID:
    with transaction() as session:
        return make_review_case(session, tenant).id


def claim(who: Person, case_id: UUID) -> Claim:
    with transaction() as session:
        return claims.claim(session, who, case_id)


def claims_of(case_id: UUID) -> list[Claim]:
    with transaction() as session:
        return list(session.scalars(select(Claim).where(Claim.case_id == case_id).order_by(Claim.fence)))


def test_a_claim_is_a_lease_with_a_fence_and_an_event(tenant: Tenant) -> None:
    who, case_id = person(tenant), review_case(tenant)
    taken = claim(who, case_id)
    with transaction() as session:
        case = session.get_one(Case, case_id)
        assert (taken.fence, case.fence) == (2, 2)  # the worker that screened it had the first
        left = session.scalar(select(Claim.lease_until - func.now()).where(Claim.id == taken.id))
        assert left is not None and 0 < left.total_seconds() <= claims.LEASE.total_seconds()
        assert session.scalar(select(Claim.claimed_at <= func.clock_timestamp()).where(Claim.id == taken.id))
        event = session.scalars(select(Event).where(Event.type == EventType.CASE_CLAIMED)).one()
        assert (event.actor, event.data) == (f"user:{who.user_id}", None)
        assert event.after == {"status": "in_review", "attempt": 1, "fence": 2}


def test_of_two_who_claim_at_once_one_gets_it(tenant: Tenant) -> None:
    """Real connections, let go together, over and over."""
    people = [person(tenant), person(tenant)]
    for _ in range(10):
        case_id = review_case(tenant)
        gate = threading.Barrier(2, timeout=60)

        def attempt(who: Person, case_id: UUID = case_id, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            try:
                claim(who, case_id)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(attempt, people)) == [False, True]
        assert len(claims_of(case_id)) == 1


def test_people_who_take_the_next_case_at_once_get_different_ones(tenant: Tenant) -> None:
    people = [person(tenant) for _ in range(6)]
    ids = {review_case(tenant) for _ in range(6)}
    gate = threading.Barrier(6, timeout=60)

    def take(who: Person) -> UUID | None:
        gate.wait()
        with transaction() as session:
            taken = claims.claim_next(session, who, Filter())
            return taken.case_id if taken else None

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(take, people)) == ids


def test_the_database_itself_refuses_a_second_live_claim(tenant: Tenant) -> None:
    who, case_id = person(tenant), review_case(tenant)
    claim(who, case_id)
    with pytest.raises(IntegrityError, match="uq_claims_live"), transaction() as session:
        session.add(Claim(case_id=case_id, user_id=who.user_id, fence=99, lease_until=func.now()))


def test_somebody_elses_case_is_refused_with_their_name(tenant: Tenant) -> None:
    first, second, case_id = person(tenant), person(tenant), review_case(tenant)
    claim(first, case_id)
    with pytest.raises(Conflict, match=first.email):
        claim(second, case_id)


def test_an_expired_claim_is_taken_and_its_holder_has_lost_it(tenant: Tenant) -> None:
    first, second, case_id = person(tenant), person(tenant), review_case(tenant)
    lost = claim(first, case_id)
    expire(case_id)
    won = claim(second, case_id)
    assert won.fence == lost.fence + 1
    assert [c.end for c in claims_of(case_id)] == [ClaimEnd.EXPIRED, None]
    with transaction() as session:
        with pytest.raises(LostLease):
            claims.renew(session, first, case_id, lost.fence)
        with pytest.raises(LostLease, match=second.email):
            claims.held(session, first, case_id, lost.fence)
        assert not claims.release(session, first, case_id, lost.fence)
    assert claims_of(case_id)[-1].ended_at is None


def test_a_claim_that_ran_out_but_that_nobody_took_is_still_good(tenant: Tenant) -> None:
    who, case_id = person(tenant), review_case(tenant)
    mine = claim(who, case_id)
    expire(case_id)
    with transaction() as session:
        reviews.answer(session, who, case_id, mine.fence, Reply(Answer.REAL))


def test_a_heartbeat_keeps_the_claim(tenant: Tenant) -> None:
    first, second, case_id = person(tenant), person(tenant), review_case(tenant)
    mine = claim(first, case_id)
    expire(case_id)
    with transaction() as session:
        claims.renew(session, first, case_id, mine.fence)
    with pytest.raises(Conflict):
        claim(second, case_id)


def test_nobody_renews_or_releases_anothers_claim(tenant: Tenant) -> None:
    first, second, case_id = person(tenant), person(tenant), review_case(tenant)
    mine = claim(first, case_id)
    with transaction() as session:
        with pytest.raises(LostLease):
            claims.renew(session, second, case_id, mine.fence)
        assert not claims.release(session, second, case_id, mine.fence)
    assert claims_of(case_id)[0].ended_at is None


def test_who_opens_it_anew_keeps_it_and_the_older_page_cannot_let_it_go(tenant: Tenant) -> None:
    who, case_id = person(tenant), review_case(tenant)
    older = claim(who, case_id)
    newer = claim(who, case_id)
    with transaction() as session:
        assert not claims.release(session, who, case_id, older.fence)
        assert claims.held(session, who, case_id, newer.fence)[1].id == newer.id


def test_leaving_frees_the_case_at_once(tenant: Tenant) -> None:
    first, second, case_id = person(tenant), person(tenant), review_case(tenant)
    mine = claim(first, case_id)
    with transaction() as session:
        assert claims.release(session, first, case_id, mine.fence)
        assert not claims.release(session, first, case_id, mine.fence), "twice is harmless"
    assert claims_of(case_id)[0].end is ClaimEnd.RELEASED
    claim(second, case_id)
    with transaction() as session:
        assert events_of(session, case_id)[-3:] == ["case.claimed", "case.unclaimed", "case.claimed"]


def test_strangers_and_for_restricted_cases_moderators_see_nothing(tenant: Tenant) -> None:
    with transaction() as session:
        stranger = make_person(session, make_tenant(session), role=Role.ADMIN)
        restricted = make_review_case(session, tenant)
        restricted.restricted = True
        plain = make_review_case(session, tenant)
    moderator, lead = person(tenant), person(tenant, Role.LEAD)
    for who, case in ((stranger, plain), (stranger, restricted), (moderator, restricted)):
        with pytest.raises(NotFound):
            claim(who, case.id)
    claim(lead, restricted.id)


@pytest.mark.parametrize("handed", ["escalated", "assigned"])
def test_what_was_handed_to_others_cannot_be_claimed(tenant: Tenant, handed: str) -> None:
    moderator, colleague, lead = person(tenant), person(tenant), person(tenant, Role.LEAD)
    with transaction() as session:
        case = make_review_case(session, tenant)
        if handed == "escalated":
            case.escalated_at = func.now()
        else:
            case.assigned_to = colleague.user_id
    with pytest.raises(Forbidden):
        claim(moderator, case.id)
    claim(lead, case.id)


@pytest.mark.parametrize("status", [CaseStatus.QUEUED, CaseStatus.DECIDED, CaseStatus.FAILED])
def test_only_cases_in_review_are_claimed(tenant: Tenant, status: CaseStatus) -> None:
    who = person(tenant)
    with transaction() as session:
        case = make_case(session, tenant, status)
    with pytest.raises(Conflict, match="not waiting"):
        claim(who, case.id)
