"""Audits, second opinions and appeals: quiet where they change nothing, and answered by somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, update

from moderation import (
    appeals,
    cases,
    claims,
    descriptions,
    erasure,
    opinions,
    queue,
    retention,
    reviews,
    screening,
    sights,
)
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import Conflict, Forbidden, IllegalTransition, InvalidRequest, LostLease
from moderation.queue import Filter
from moderation.retention import Periods
from moderation.reviews import Reply
from moderation.settings import settings
from moderation.tables import Case, Claim, Delivery, Event, Membership, Review, Tenant, User
from moderation.vocabulary import (
    Answer,
    CaseStatus,
    ClaimEnd,
    DecidedBy,
    EventType,
    Hidden,
    Label,
    ReviewReason,
    Role,
)
from tests.factories import champion_or_new, events_of, make_case, make_endpoint, make_reading, make_tenant
from tests.reviewing import make_person, make_review_case, ten_seconds_later

REAL, FAKE, CANNOT_TELL = (Reply(answer) for answer in Answer)


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    """A platform whose every answer is asked of somebody else too, and whose every decision is audited."""
    with transaction() as session:
        made = make_tenant(session)
        made.second_opinion_share = made.audit_share = 1.0
        made.blind_share = 0.0
        make_endpoint(session, made)
        return made


@pytest.fixture
def people(tenant: Tenant) -> Iterator[Callable[..., Person]]:
    """Makes moderators of the tenant's."""

    def made(role: Role = Role.MODERATOR) -> Person:
        with transaction() as session:
            return make_person(session, tenant, role=role)

    yield made


def answered(who: Person, case_id: UUID, reply: Reply = FAKE) -> Case:
    """Claimed, answered, and in effect."""
    with transaction() as session:
        fence = claims.claim(session, who, case_id).fence
        reviews.answer(session, who, case_id, fence, reply)
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    return row(case_id)


def row(case_id: UUID) -> Case:
    with transaction() as session:
        return session.get_one(Case, case_id)


def told(case_id: UUID) -> list[EventType]:
    with transaction() as session:
        query = select(Event.type).join(Delivery, Delivery.event_id == Event.id).where(Event.case_id == case_id)
        return list(session.scalars(query.order_by(Event.sequence)))


def last_event(case_id: UUID) -> Event:
    with transaction() as session:
        query = select(Event).where(Event.case_id == case_id).order_by(Event.sequence.desc()).limit(1)
        return session.scalars(query).one()


def hidden(who: Person, case_id: UUID) -> frozenset[Hidden]:
    with transaction() as session:
        return sights.sight(session, who, case_id).hidden


def an_hour_later() -> None:
    """What somebody has just answered may be offered to them again."""
    with transaction() as session:
        session.execute(update(Claim).values(ended_at=Claim.ended_at - queue.SKIPPED_FOR))


def next_of(who: Person) -> UUID | None:
    with transaction() as session:
        taken = claims.claim_next(session, who, Filter())
        if taken is None:
            return None
        claims.release(session, who, taken.case_id, taken.fence)
        return taken.case_id


def screened(tenant: Tenant, p_fake: float = 0.97) -> UUID:
    """A case that a worker has judged."""
    with transaction() as session:
        version = champion_or_new(session)
        case = make_case(session, tenant)
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    screening.finish(job, make_reading(p_fake), version.id)
    return case.id


# --- Audits ---


def test_a_share_of_what_the_policy_decides_is_looked_at_and_nobody_is_told(tenant: Tenant) -> None:
    case_id = screened(tenant)
    case = row(case_id)
    assert (case.status, case.review_reason) == (CaseStatus.IN_REVIEW, ReviewReason.AUDIT)
    assert (case.audit_probability, case.blind, case.blind_probability) == (1.0, True, 1.0)
    assert (case.label, case.decided_by, case.policy_label) == (Label.FAKE, DecidedBy.POLICY, Label.FAKE)
    assert told(case_id)[-1] is EventType.DECISION_CREATED
    with transaction() as session:
        assert events_of(session, case_id)[-2:] == ["decision.created", "case.sampled"]
        shown = descriptions.describe(session.get_one(Case, case_id))
    assert shown["decision"] == {"label": "fake", "by": "policy", "policy_version": 1}
    assert (shown["status"], shown["review_reason"]) == ("in_review", "audit")


def test_the_share_of_audits_is_drawn(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction() as session:
        session.get_one(Tenant, tenant.id).audit_share = 0.25
    drawn = iter([0.2499, 0.0, 0.25])  # the first is audited, and then drawn to be blind
    monkeypatch.setattr(cases, "random", SimpleNamespace(random=lambda: next(drawn)))
    found = [row(screened(tenant)) for _ in range(2)]
    assert [(case.status.value, case.audit_probability) for case in found] == [("in_review", 0.25), ("decided", None)]


def test_what_goes_to_review_anyway_is_no_audit(tenant: Tenant) -> None:
    case = row(screened(tenant, 0.5))
    assert (case.review_reason, case.audit_probability) == (ReviewReason.UNCERTAIN, None)


def test_an_audit_that_agrees_leaves_everything_as_it_was(tenant: Tenant, people: Callable[..., Person]) -> None:
    anna = people()
    case_id = screened(tenant)
    before, heard = row(case_id), told(case_id)
    assert hidden(anna, case_id) == set(Hidden)
    case = answered(anna, case_id, FAKE)
    assert (case.status, case.label, case.decided_by) == (CaseStatus.DECIDED, Label.FAKE, DecidedBy.POLICY)
    assert case.settled_at == before.settled_at and told(case_id) == heard
    assert last_event(case_id).type is EventType.REVIEW_UPHELD
    assert last_event(case_id).before == {"status": "in_review"}
    reviews.settle(case_id)
    assert row(case_id).sequence == case.sequence, "settling twice changes nothing"
    with transaction() as session:
        review = session.scalars(select(Review)).one()
        assert review.blind and review.reason is ReviewReason.AUDIT
    assert hidden(anna, case_id) == set()


def test_an_audit_that_differs_reverses_the_decision(tenant: Tenant, people: Callable[..., Person]) -> None:
    case_id = screened(tenant)
    case = answered(people(), case_id, REAL)
    assert (case.status, case.label, case.decided_by) == (CaseStatus.DECIDED, Label.REAL, DecidedBy.MODERATOR)
    assert case.policy_label is Label.FAKE
    assert told(case_id)[-1] is EventType.DECISION_REVERSED
    assert case.second is None, "a second opinion is asked of first answers"


def test_an_audit_stays_blind_while_its_answer_can_be_undone(tenant: Tenant, people: Callable[..., Person]) -> None:
    anna, case_id = people(), screened(tenant)
    with transaction() as session:
        fence = claims.claim(session, anna, case_id).fence
        assert not reviews.reveals(reviews.answer(session, anna, case_id, fence, REAL))
    assert hidden(anna, case_id) == set(Hidden)
    with transaction() as session:
        fence = reviews.undo(session, anna, case_id).fence
    with transaction() as session:
        assert reviews.answer(session, anna, case_id, fence, FAKE).blind


def test_an_audit_that_cannot_be_told_goes_to_a_lead_who_is_blind_too_and_has_the_last_word(
    tenant: Tenant, people: Callable[..., Person]
) -> None:
    anna, lead = people(), people(Role.LEAD)
    case_id = screened(tenant)
    case = answered(anna, case_id, CANNOT_TELL)
    assert case.status is CaseStatus.IN_REVIEW and case.escalated_at is not None
    assert hidden(anna, case_id) == hidden(lead, case_id) == set(Hidden)
    case = answered(lead, case_id, CANNOT_TELL)
    assert (case.status, case.label, case.decided_by) == (CaseStatus.DECIDED, Label.FAKE, DecidedBy.POLICY)
    assert last_event(case_id).type is EventType.REVIEW_UPHELD


# --- Second opinions ---


def first_answered(tenant: Tenant, who: Person, reply: Reply = FAKE, *, blind: bool = False) -> UUID:
    """A case that this person answered, and that somebody else is asked about now."""
    with transaction() as session:
        case_id = make_review_case(session, tenant, blind=blind).id
    case = answered(who, case_id, reply)
    assert (case.status, case.review_reason) == (CaseStatus.IN_REVIEW, ReviewReason.SECOND_OPINION)
    return case_id


def test_the_first_answer_decides_at_once_and_somebody_else_is_asked(
    tenant: Tenant, people: Callable[..., Person]
) -> None:
    anna, bert = people(), people()
    case_id = first_answered(tenant, anna)
    case = row(case_id)
    assert (case.second, case.second_probability) == (True, 1.0)
    assert (case.label, case.decided_by) == (Label.FAKE, DecidedBy.MODERATOR)
    assert told(case_id)[-1] is EventType.DECISION_CREATED
    assert next_of(anna) is None and next_of(bert) == case_id
    with pytest.raises(Forbidden, match="somebody else's turn"), transaction() as session:
        claims.claim(session, anna, case_id)


def test_a_second_opinion_hides_the_first_and_the_verdict_only_of_blind_cases(
    tenant: Tenant, people: Callable[..., Person]
) -> None:
    anna, bert = people(), people()
    assert hidden(bert, first_answered(tenant, anna)) == {Hidden.DECISION}
    assert hidden(bert, first_answered(tenant, anna, blind=True)) == set(Hidden)
    assert hidden(anna, first_answered(tenant, anna)) == set(), "they know what they said"


def test_the_history_tells_nothing_of_the_first_answer(tenant: Tenant, people: Callable[..., Person]) -> None:
    anna, bert = people(), people()
    case_id = first_answered(tenant, anna)
    with transaction() as session:
        seen = sights.sight(session, bert, case_id)
    assert anna.email not in seen.names.values() and seen.answers == ()
    assert [event.type.value for event in seen.history] == [
        "submission.accepted",
        "case.taken",
        "verdict.completed",
        "case.sampled",
    ]
    with transaction() as session:
        assert len(sights.sight(session, anna, case_id).history) > len(seen.history)
        assert reviews.colleagues(session, session.get_one(Case, case_id)) == (), "who is missing would be the first"


def test_two_who_agree_tell_nobody(tenant: Tenant, people: Callable[..., Person]) -> None:
    anna, bert = people(), people()
    case_id = first_answered(tenant, anna)
    heard = told(case_id)
    case = answered(bert, case_id, FAKE)
    assert (case.status, case.label, told(case_id)) == (CaseStatus.DECIDED, Label.FAKE, heard)
    assert last_event(case_id).type is EventType.REVIEW_UPHELD
    assert last_event(case_id).actor == bert.actor


@pytest.mark.parametrize(("lead_says", "label"), [(REAL, Label.REAL), (FAKE, Label.FAKE), (CANNOT_TELL, Label.FAKE)])
@pytest.mark.parametrize("second", [REAL, CANNOT_TELL])
def test_two_who_do_not_agree_are_decided_between_by_a_lead_who_sees_both(
    tenant: Tenant, people: Callable[..., Person], second: Reply, lead_says: Reply, label: Label
) -> None:
    anna, bert, lead = people(), people(), people(Role.LEAD)
    case_id = first_answered(tenant, anna, blind=True)
    heard = told(case_id)
    case = answered(bert, case_id, second)
    assert case.status is CaseStatus.IN_REVIEW and case.escalated_at is not None and told(case_id) == heard
    with transaction() as session:
        seen = sights.sight(session, lead, case_id)
    assert seen.hidden == set() and seen.verdict is not None
    assert [(review.user_id, review.answer) for review in seen.answers] == [
        (anna.user_id, Answer.FAKE),
        (bert.user_id, second.answer),
    ]
    case = answered(lead, case_id, lead_says)
    assert (case.status, case.label) == (CaseStatus.DECIDED, label)
    assert (told(case_id) != heard) == (label is Label.REAL)
    if label is Label.REAL:
        assert told(case_id) == [*heard, EventType.DECISION_REVERSED]


def test_a_second_opinion_is_asked_once(tenant: Tenant, people: Callable[..., Person]) -> None:
    anna, bert = people(), people()
    case_id = first_answered(tenant, anna)
    answered(bert, case_id)
    with transaction() as session:
        appeals.file(session, tenant.id, case_id, actor="test", message=None)
    carla = people()
    assert answered(carla, case_id, REAL).status is CaseStatus.DECIDED


def test_the_share_of_second_opinions_is_drawn(
    tenant: Tenant, people: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    anna, _ = people(), people()
    with transaction() as session:
        session.get_one(Tenant, tenant.id).second_opinion_share = 0.25
        ids = [make_review_case(session, tenant).id for _ in range(2)]
    drawn = iter([0.2499, 0.25])
    monkeypatch.setattr(opinions, "random", SimpleNamespace(random=lambda: next(drawn)))
    found = [answered(anna, case_id) for case_id in ids]
    assert [(case.second, case.second_probability) for case in found] == [(True, 0.25), (False, 0.25)]
    assert [case.status for case in found] == [CaseStatus.IN_REVIEW, CaseStatus.DECIDED]


def test_where_there_is_nobody_else_nobody_is_asked(tenant: Tenant, people: Callable[..., Person]) -> None:
    anna, gone = people(), people()
    with transaction() as session:
        session.get_one(User, gone.user_id).disabled_at = session.get_one(User, gone.user_id).created_at
        make_person(session, make_tenant(session))
        case_id = make_review_case(session, tenant).id
    case = answered(anna, case_id)
    assert (case.status, case.second, case.second_probability) == (CaseStatus.DECIDED, None, None)


def test_where_everybody_else_has_left_it_stays_in_nobodys_way(tenant: Tenant, people: Callable[..., Person]) -> None:
    """Whoever is left can end it."""
    anna, bert = people(), people()
    case_id = first_answered(tenant, anna)
    an_hour_later()
    assert next_of(anna) is None
    with transaction() as session:
        session.delete(session.get_one(Membership, (bert.user_id, tenant.id)))
    an_hour_later()
    assert next_of(anna) == case_id
    assert answered(anna, case_id).status is CaseStatus.DECIDED


def test_what_is_not_theirs_does_not_hide_what_is(
    tenant: Tenant, people: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many cases wait for a second opinion, who answered them is offered what comes after."""
    monkeypatch.setattr(claims, "TRIES", 3)
    anna, _ = people(), people()
    for _ in range(claims.TRIES + 1):
        first_answered(tenant, anna)
    with transaction() as session:
        wanted = make_review_case(session, tenant, score=0.9).id
    an_hour_later()
    assert next_of(anna) == wanted


@pytest.mark.parametrize("field", ["escalated_at", "restricted"])
def test_a_leads_word_and_a_restricted_image_are_asked_of_nobody_else(
    tenant: Tenant, people: Callable[..., Person], field: str
) -> None:
    lead, _ = people(Role.LEAD), people(Role.LEAD)
    with transaction() as session:
        case = make_review_case(session, tenant)
        setattr(case, field, case.created_at if field == "escalated_at" else True)
    case = answered(lead, case.id)
    assert (case.status, case.second) == (CaseStatus.DECIDED, None)


# --- Appeals ---


def appealed(tenant: Tenant, who: Person | None = None, message: str | None = "It is mine.") -> UUID:
    """Decided by this person, or by the policy, and appealed."""
    with transaction() as session:
        session.get_one(Tenant, tenant.id).second_opinion_share = 0
        case_id = make_review_case(session, tenant).id if who else make_case(session, tenant, CaseStatus.DECIDED).id
    if who:
        answered(who, case_id)
    with transaction() as session:
        appeals.file(session, tenant.id, case_id, actor="api_key:1", message=message)
    return case_id


def test_an_appeal_hides_verdict_and_decision_until_its_answer_has_taken_effect(
    tenant: Tenant, people: Callable[..., Person]
) -> None:
    anna, bert = people(), people()
    for case_id in (appealed(tenant), appealed(tenant, anna)):
        assert hidden(bert, case_id) == set(Hidden)
        with transaction() as session:
            seen = sights.sight(session, bert, case_id)
            assert (seen.verdict, seen.policy, seen.answers) == (None, None, ())
            assert anna.email not in seen.names.values()
            assert {"decision.created", "review.answered"}.isdisjoint(event.type.value for event in seen.history)
            assert seen.case.appeal_message == "It is mine."
            assert {entry.score for entry in queue.page(session, bert, Filter(reason=ReviewReason.APPEAL))} == {None}
        answered(bert, case_id)
        assert hidden(bert, case_id) == set()


def test_somebody_else_answers_the_appeal(tenant: Tenant, people: Callable[..., Person]) -> None:
    anna, bert = people(), people()
    case_id = appealed(tenant, anna)
    an_hour_later()
    assert next_of(anna) is None and next_of(bert) == case_id


def test_where_there_is_nobody_else_whoever_decided_answers_the_appeal(
    tenant: Tenant, people: Callable[..., Person]
) -> None:
    anna = people()
    case_id = appealed(tenant, anna)
    an_hour_later()
    assert next_of(anna) == case_id
    assert answered(anna, case_id).status is CaseStatus.DECIDED


def test_the_outcome_comes_with_a_message(tenant: Tenant, people: Callable[..., Person]) -> None:
    case_id = appealed(tenant)
    answered(people(), case_id, Reply(Answer.REAL, message="  The raw file settles it.\x00  "))
    outcome = last_event(case_id)
    assert outcome.type is EventType.APPEAL_DECIDED and outcome.data is not None
    assert outcome.data["appeal"] == {"outcome": "overturned", "message": "The raw file settles it.\ufffd"}
    assert told(case_id)[-2:] == [EventType.DECISION_REVERSED, EventType.APPEAL_DECIDED]


def test_a_message_is_for_appeals_and_not_too_long(tenant: Tenant, people: Callable[..., Person]) -> None:
    anna = people()
    with transaction() as session:
        plain = make_review_case(session, tenant).id
    for case_id, message in ((plain, "hello"), (appealed(tenant), "x" * (reviews.MAX_MESSAGE + 1))):
        with pytest.raises(InvalidRequest, match="message"):
            answered(anna, case_id, Reply(Answer.FAKE, message=message))


def test_an_audit_is_decided_for_all_the_platform_knows_and_can_be_appealed(
    tenant: Tenant, people: Callable[..., Person]
) -> None:
    anna, case_id = people(), screened(tenant)
    with transaction() as session:
        fence = claims.claim(session, anna, case_id).fence
    with transaction() as session:
        appeals.file(session, tenant.id, case_id, actor="api_key:1", message="No!")
    case = row(case_id)
    assert (case.status, case.review_reason) == (CaseStatus.IN_REVIEW, ReviewReason.APPEAL)
    assert told(case_id)[-1] is EventType.CASE_IN_REVIEW
    with pytest.raises(LostLease), transaction() as session:
        reviews.answer(session, anna, case_id, fence, FAKE)
    with transaction() as session:
        assert session.scalars(select(Claim.end)).one() is ClaimEnd.WITHDRAWN


def test_an_answer_of_the_last_ten_seconds_gives_way_to_an_appeal(
    tenant: Tenant, people: Callable[..., Person]
) -> None:
    anna, bert, case_id = people(), people(), screened(tenant)
    with transaction() as session:
        fence = claims.claim(session, anna, case_id).fence
        reviews.answer(session, anna, case_id, fence, Reply(Answer.REAL, note="The grain is even."))
    before = told(case_id)
    with transaction() as session:
        appeals.file(session, tenant.id, case_id, actor="api_key:1", message=None)
    assert told(case_id) == [*before, EventType.CASE_IN_REVIEW], "the platform knows nothing of the answer"
    assert row(case_id).answer_due is None
    reviews.settle(case_id)
    assert row(case_id).review_reason is ReviewReason.APPEAL
    with transaction() as session:
        kept = reviews.last_of(session, anna, case_id)
        assert kept is not None and kept.undone_at is not None and kept.settled_at is None
        assert kept.note == "The grain is even."
        undone = session.scalars(select(Event).where(Event.type == EventType.REVIEW_UNDONE)).one()
        assert undone.actor == "api_key:1"
    assert answered(bert, case_id, REAL).label is Label.REAL
    assert told(case_id)[-2:] == [EventType.DECISION_REVERSED, EventType.APPEAL_DECIDED]
    with transaction() as session:
        decided = session.scalars(select(Event).where(Event.type == EventType.APPEAL_DECIDED)).one()
        assert decided.data is not None and decided.data["appeal"]["outcome"] == "overturned"


def test_what_nobody_has_decided_cannot_be_appealed(tenant: Tenant) -> None:
    with transaction() as session:
        case_id = make_review_case(session, tenant).id
    for _ in range(2):
        with pytest.raises(IllegalTransition), transaction() as session:
            appeals.file(session, tenant.id, case_id, actor="test", message=None)
        case_id = appealed(tenant)


def test_what_is_appealed_too_late_or_is_erased_is_refused_and_changes_nothing(tenant: Tenant) -> None:
    with transaction() as session:
        retention.set_periods(session, tenant.id, Periods(appeals=30))
        young, late, quietly, erased = (make_case(session, tenant, CaseStatus.DECIDED) for _ in range(4))
        cases.reopen(session, quietly, ReviewReason.AUDIT)
        erasure.erase(session, tenant.id, erased.image_id, actor="test", request_id=None)  # type: ignore[arg-type]
        for case, days in ((young, 29), (late, 31), (quietly, 31)):
            case.settled_at = datetime.now(UTC) - timedelta(days=days)
    for case, why in ((late, "for 30 days: it is too late"), (quietly, "too late"), (erased, "is erased")):
        with pytest.raises(Conflict, match=why), transaction() as session:
            appeals.file(session, tenant.id, case.id, actor="test", message=None)
        assert row(case.id).review_reason is not ReviewReason.APPEAL
    with transaction() as session:
        assert appeals.file(session, tenant.id, young.id, actor="test", message=None).status is CaseStatus.IN_REVIEW
