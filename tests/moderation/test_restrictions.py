"""Illegal content: reported by anybody, seen by leads."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from moderation import claims, queue, restrictions, reviews
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import Conflict, Forbidden, InvalidRequest, LostLease, NotFound
from moderation.queue import Filter
from moderation.reviews import Reply
from moderation.tables import Case, Event, Tenant
from moderation.vocabulary import Answer, CaseStatus, EventType, Role
from tests.factories import make_case, make_tenant
from tests.reviewing import make_person, make_review_case


@pytest.fixture
def anna(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant)


@pytest.fixture
def lead(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant, role=Role.LEAD)


def report(who: Person, case: Case, note: str | None = None) -> Case:
    with transaction() as session:
        restrictions.report(session, who, case.id, note)
    with transaction() as session:
        return session.get_one(Case, case.id)


def review_case(tenant: Tenant) -> Case:
    with transaction() as session:
        return make_review_case(session, tenant)


def test_what_is_reported_is_for_leads_alone(tenant: Tenant, anna: Person, lead: Person) -> None:
    case = report(anna, review_case(tenant), "  a crime\x00  ")
    assert case.restricted and case.status is CaseStatus.IN_REVIEW
    with transaction() as session:
        assert queue.page(session, anna, Filter()) == [] and queue.found(session, anna, str(case.id)) == []
        assert [entry.id for entry in queue.page(session, lead, Filter())] == [case.id]
        with pytest.raises(NotFound):
            claims.case_for(session, anna, case.id)
        event = session.scalars(
            select(Event).where(Event.case_id == case.id).order_by(Event.sequence.desc()).limit(1)
        ).one()
    assert (event.type, event.actor) == (EventType.CASE_RESTRICTED, anna.actor)
    assert event.before == {"status": "in_review", "restricted": False}
    assert event.after is not None and event.after["message"] == "a crime\ufffd" and event.data is None


def test_whoever_was_at_work_on_it_is_not_any_more(tenant: Tenant, anna: Person, lead: Person) -> None:
    case = review_case(tenant)
    with transaction() as session:
        fence = claims.claim(session, anna, case.id).fence
    report(lead, case)
    for late in (claims.renew, lambda *who: reviews.answer(*who, Reply(Answer.FAKE))):
        with pytest.raises(NotFound), transaction() as session:
            late(session, anna, case.id, fence)
    with transaction() as session:
        assert claims.claim(session, lead, case.id).fence == fence + 1


def test_a_lead_who_was_at_work_on_it_begins_anew(tenant: Tenant, lead: Person) -> None:
    case = review_case(tenant)
    with transaction() as session:
        fence = claims.claim(session, lead, case.id).fence
    report(lead, case)
    with pytest.raises(LostLease), transaction() as session:
        claims.renew(session, lead, case.id, fence)


def test_a_decided_case_can_be_reported_and_stays_decided(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.DECIDED)
    reported = report(anna, case)
    assert reported.restricted and reported.status is CaseStatus.DECIDED


def test_a_lead_lifts_it(tenant: Tenant, anna: Person, lead: Person) -> None:
    case = report(anna, review_case(tenant))
    with pytest.raises(NotFound), transaction() as session:
        restrictions.lift(session, anna, case.id)
    with transaction() as session:
        restrictions.lift(session, lead, case.id)
    with transaction() as session:
        assert not claims.case_for(session, anna, case.id).restricted
        event = session.scalars(
            select(Event).where(Event.case_id == case.id).order_by(Event.sequence.desc()).limit(1)
        ).one()
        assert (event.type, event.actor) == (EventType.CASE_UNRESTRICTED, lead.actor)
    with pytest.raises(Forbidden), transaction() as session:
        restrictions.lift(session, anna, case.id)
    with pytest.raises(Conflict, match="not restricted"), transaction() as session:
        restrictions.lift(session, lead, case.id)


def test_what_cannot_be_reported(tenant: Tenant, anna: Person, lead: Person) -> None:
    case = review_case(tenant)
    with transaction() as session:
        stranger = make_person(session, make_tenant(session), role=Role.ADMIN)
    with pytest.raises(NotFound):
        report(stranger, case)
    with pytest.raises(InvalidRequest):
        report(anna, case, "x" * (restrictions.MAX_NOTE + 1))
    report(anna, case)
    with pytest.raises(Conflict, match="before"):
        report(lead, case)
