"""Bulk actions: each case as if alone, with its own events and refusals; and no way around either."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select

from moderation import bulk, claims
from moderation.accounts import Person
from moderation.db import new_id, transaction
from moderation.errors import InvalidRequest
from moderation.reviews import Reply
from moderation.tables import Case, Review, Tenant
from moderation.vocabulary import Answer, CaseStatus, Priority, Role
from tests.factories import events_of, make_case, make_tenant
from tests.reviewing import make_person, make_review_case


@pytest.fixture
def lead(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant, role=Role.LEAD)


@pytest.fixture
def ids(tenant: Tenant) -> list[UUID]:
    with transaction() as session:
        return [make_review_case(session, tenant, external_id=f"c{n}", blind=n == 1).id for n in range(3)]


def row(case_id: UUID) -> Case:
    with transaction() as session:
        return session.get_one(Case, case_id)


def last_events(case_id: UUID) -> list[str]:
    with transaction() as session:
        return events_of(session, case_id)[-2:]


@pytest.mark.parametrize(
    ("action", "event", "holds"),
    [
        (lambda: bulk.hold(timedelta(hours=1)), "case.held", lambda case: case.held_until is not None),
        (bulk.to_lead, "case.escalated", lambda case: case.escalated_at is not None),
        (lambda: bulk.prioritise(Priority.URGENT), "case.prioritised", lambda case: case.priority == 3),
        (lambda: bulk.answer(Reply(Answer.FAKE)), "review.answered", lambda case: case.answer_due is not None),
    ],
)
def test_each_case_is_claimed_and_acted_on_with_events_of_its_own(
    lead: Person, ids: list[UUID], action: Callable[[], bulk.Action], event: str, holds: Callable[[Case], bool]
) -> None:
    assert bulk.do(lead, [*ids, ids[0]], action()) == bulk.Outcome(3, [])
    for case_id in ids:
        assert holds(row(case_id))
        assert last_events(case_id) == ["case.claimed", event]
    with transaction() as session:
        assert [claims.live(session, case_id) for case_id in ids] == [None] * 3, "nobody is left at work"


def test_a_new_priority_says_what_it_was(lead: Person, ids: list[UUID]) -> None:
    bulk.do(lead, ids[:1], bulk.prioritise(Priority.LOW))
    with transaction() as session:
        from moderation.tables import Event

        event = session.scalars(select(Event).where(Event.type == "case.prioritised")).one()
        assert (event.actor, event.before, event.after) == (
            lead.actor,
            {"status": "in_review", "priority": "normal"},
            {"status": "in_review", "attempt": 1, "priority": "low"},
        )


def test_handed_on_is_only_to_who_may_work_on_it(tenant: Tenant, lead: Person, ids: list[UUID]) -> None:
    with transaction() as session:
        colleague = make_person(session, tenant)
        stranger = make_person(session, make_tenant(session))
    assert bulk.do(lead, ids, bulk.hand_on(colleague.user_id)).done == 3
    assert {row(case_id).assigned_to for case_id in ids} == {colleague.user_id}
    refused = bulk.do(lead, ids[:1], bulk.hand_on(stranger.user_id))
    assert (refused.done, refused.left[0].name) == (0, "c0") and "choose somebody" in refused.left[0].reason
    assert row(ids[0]).assigned_to == colleague.user_id


def test_what_cannot_be_done_is_left_and_said_and_the_rest_is_done(
    tenant: Tenant, lead: Person, ids: list[UUID]
) -> None:
    with transaction() as session:
        other = make_person(session, tenant, email="other@example.com")
        claims.claim(session, other, ids[0])
        decided = make_case(session, tenant, CaseStatus.DECIDED, external_id="decided").id
        theirs = make_review_case(session, make_tenant(session)).id
    outcome = bulk.do(lead, [*ids, decided, theirs], bulk.to_lead())
    assert outcome.done == 2
    assert [(left.name, left.reason) for left in outcome.left] == [
        ("c0", "other@example.com is at work on this case."),
        ("decided", "This case is not waiting for an answer any more."),
        (str(theirs), f"There is no case {theirs}."),
    ]
    assert row(ids[0]).escalated_at is row(theirs).escalated_at is None


def test_it_is_for_leads_of_the_cases_platform(tenant: Tenant, ids: list[UUID]) -> None:
    with transaction() as session:
        moderator = make_person(session, tenant)
    outcome = bulk.do(moderator, ids, bulk.to_lead())
    assert outcome.done == 0 and "Only a lead may do this" in outcome.left[0].reason
    assert last_events(ids[0])[-1] != "case.claimed"


def test_blind_cases_are_answered_blind(lead: Person, ids: list[UUID]) -> None:
    bulk.do(lead, ids, bulk.answer(Reply(Answer.REAL, note="a campaign")))
    with transaction() as session:
        given = {review.case_id: (review.blind, review.note) for review in session.scalars(select(Review))}
    assert given == {case_id: (number == 1, "a campaign") for number, case_id in enumerate(ids)}


@pytest.mark.parametrize("count", [0, bulk.MOST + 1])
def test_none_and_too_many_are_refused(lead: Person, count: int) -> None:
    with pytest.raises(InvalidRequest, match="select"):
        bulk.do(lead, [new_id() for _ in range(count)], bulk.to_lead())
