"""Reviews: answers that take effect ten seconds later, undo, blind cases, and everything else a moderator can do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, func, select
from sqlalchemy.orm import Session

from moderation import cases, claims, dispatch, queue, reviews, sights
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import Conflict, InvalidRequest, LostLease, NotFound
from moderation.queue import Filter
from moderation.reviews import Reply, Sentence
from moderation.tables import Case, Claim, Delivery, Event, Review, Tenant
from moderation.vocabulary import (
    Answer,
    Artifact,
    CaseStatus,
    ClaimEnd,
    DecidedBy,
    EventType,
    Grade,
    Hidden,
    Label,
    ReviewReason,
    Role,
)
from tests.factories import events_of, make_case, make_endpoint, make_tenant
from tests.reviewing import SENTENCES, TEXT, expire, make_person, make_review_case, ten_seconds_later

REAL, FAKE, CANNOT_TELL = (Reply(answer) for answer in Answer)
OFFER = timedelta(seconds=15)


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        made = make_tenant(session)
        make_endpoint(session, made)
        return made


@pytest.fixture
def anna(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant, email="anna@example.com")


def review_case(tenant: Tenant, *, blind: bool = False, text: str | None = TEXT) -> UUID:
    with transaction() as session:
        return make_review_case(session, tenant, blind=blind, text=text).id


def appealed_case(tenant: Tenant) -> UUID:
    """Decided as fake by policy, and appealed."""
    with transaction() as session:
        case_id = make_case(session, tenant, CaseStatus.DECIDED).id
        cases.appeal(session, tenant.id, case_id, actor="api_key:1", message="It is mine.")
        session.get_one(Case, case_id).blind = False
        return case_id


def claim(who: Person, case_id: UUID) -> int:
    with transaction() as session:
        return claims.claim(session, who, case_id).fence


def answer(who: Person, case_id: UUID, reply: Reply = FAKE) -> Review:
    fence = claim(who, case_id)
    with transaction() as session:
        return reviews.answer(session, who, case_id, fence, reply)


def settled(who: Person, case_id: UUID, reply: Reply = FAKE) -> Case:
    answer(who, case_id, reply)
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    return reread(case_id)


def reread(case_id: UUID) -> Case:
    with transaction() as session:
        return session.get_one(Case, case_id)


def events(case_id: UUID, after: EventType) -> list[Event]:
    """A case's events from the last of this type on."""
    with transaction() as session:
        found = list(session.scalars(select(Event).where(Event.case_id == case_id).order_by(Event.sequence)))
    return found[max(index for index, event in enumerate(found) if event.type is after) :]


def told(case_id: UUID) -> list[EventType]:
    """What endpoints were told of a case after it went to review."""
    with transaction() as session:
        query = select(Event.type).join(Delivery, Delivery.event_id == Event.id).where(Event.case_id == case_id)
        types = list(session.scalars(query.order_by(Event.sequence)))
    return types[len(types) - types[::-1].index(EventType.CASE_IN_REVIEW) :]


# --- Answers ---


@pytest.mark.parametrize(("reply", "label"), [(REAL, Label.REAL), (FAKE, Label.FAKE)])
def test_an_answer_decides_the_case_ten_seconds_later(tenant: Tenant, anna: Person, reply: Reply, label: Label) -> None:
    case_id = review_case(tenant)
    review = answer(anna, case_id, reply)
    reviews.settle(case_id)
    assert reread(case_id).status is CaseStatus.IN_REVIEW, "its time has not come"
    assert told(case_id) == []
    with transaction() as session:
        answered = select(Review.due_at - timedelta(seconds=10)).scalar_subquery()
        assert session.scalar(select(answered.between(Review.created_at, func.clock_timestamp())))
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    case = reread(case_id)
    assert (case.status, case.label, case.decided_by) == (CaseStatus.DECIDED, label, DecidedBy.MODERATOR)
    assert case.answer_due is None
    assert told(case_id) == [EventType.DECISION_CREATED]
    decided = events(case_id, EventType.DECISION_CREATED)[0]
    assert decided.actor == f"user:{anna.user_id}"
    assert decided.before == {"status": "in_review", "label": None}
    assert decided.after == {"status": "decided", "attempt": 1, "label": label.value, "review": str(review.id)}
    assert decided.data is not None
    assert decided.data["decision"] == {"label": label.value, "by": "moderator", "policy_version": 1}


@pytest.mark.parametrize("reason", ReviewReason)
def test_an_answer_says_why_it_was_asked_for(tenant: Tenant, anna: Person, reason: ReviewReason) -> None:
    """It is written down, and not left to the column's default, which would be believed."""
    case_id = review_case(tenant)
    with transaction() as session:
        session.get_one(Case, case_id).review_reason = reason
    written: list[ReviewReason | None] = []

    def write(mapper: object, connection: object, review: Review) -> None:
        written.append(review.reason)

    event.listen(Review, "before_insert", write)
    try:
        answer(anna, case_id)
    finally:
        event.remove(Review, "before_insert", write)
    assert written == [reason]


def test_settling_twice_changes_nothing(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    before = settled(anna, case_id).sequence
    reviews.settle(case_id)
    assert reread(case_id).sequence == before


def test_settling_what_nobody_answered_or_what_is_not_there_is_harmless(tenant: Tenant) -> None:
    case_id = review_case(tenant)
    reviews.settle(case_id)
    reviews.settle(tenant.id)
    assert reread(case_id).status is CaseStatus.IN_REVIEW


def test_the_relay_offers_an_answer_when_it_is_due_and_not_before(tenant: Tenant, anna: Person) -> None:
    early, due = review_case(tenant), review_case(tenant)
    for case_id in (early, due):
        answer(anna, case_id)
    ten_seconds_later(due)
    with transaction() as session:
        assert dispatch.offer_answers(session, window=10, lease=OFFER) == [due]
    with transaction() as session:
        assert dispatch.offer_answers(session, window=10, lease=OFFER) == [], "offered, and not yet taken"
    with transaction() as session:
        dispatch.withdraw(session, "cases", [due])
    with transaction() as session:
        assert dispatch.offer_answers(session, window=10, lease=OFFER) == [due]
    reviews.settle(due)
    with transaction() as session:
        assert dispatch.offer_answers(session, window=10, lease=OFFER) == []


def test_a_reopened_case_is_offered_again(tenant: Tenant, anna: Person) -> None:
    """Nothing of an offer is left over."""
    case_id = review_case(tenant)
    answer(anna, case_id)
    ten_seconds_later(case_id)
    with transaction() as session:
        dispatch.offer_answers(session, window=10, lease=OFFER)
    reviews.settle(case_id)
    with transaction() as session:
        cases.appeal(session, tenant.id, case_id, actor="test", message=None)
    answer(anna, case_id)
    ten_seconds_later(case_id)
    with transaction() as session:
        assert dispatch.offer_answers(session, window=10, lease=OFFER) == [case_id]


def test_everything_that_was_said_is_stored(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    said = (
        Sentence(SENTENCES[0], Grade.RIGHT),
        Sentence(SENTENCES[1], Grade.WRONG, "The left hand has five fingers, one bent.\x00"),
        Sentence(written="  The text on the sign is no text.  "),
    )
    artifacts = frozenset({Artifact.TEXT, Artifact.ANATOMY})
    answer(anna, case_id, Reply(Answer.FAKE, artifacts, said, "Seen before."))
    with transaction() as session:
        review = session.scalars(select(Review)).one()
        assert (review.answer, review.artifacts, review.note) == (Answer.FAKE, ["anatomy", "text"], "Seen before.")
        assert review.verdict_id == session.get_one(Case, case_id).verdict_id and not review.blind
        assert [(s.said, s.grade, s.written) for s in review.sentences] == [
            (SENTENCES[0], Grade.RIGHT, None),
            (SENTENCES[1], Grade.WRONG, "The left hand has five fingers, one bent.\ufffd"),
            (None, None, "The text on the sign is no text."),
        ]
        assert session.get_one(Claim, review.claim_id).end is ClaimEnd.ANSWERED


@pytest.mark.parametrize(
    "sentence",
    [
        Sentence("The model never said this.", Grade.RIGHT),
        Sentence(SENTENCES[0]),
        Sentence(),
        Sentence(written="x" * 4001),
    ],
)
def test_what_makes_no_sense_is_refused(tenant: Tenant, anna: Person, sentence: Sentence) -> None:
    with pytest.raises(InvalidRequest):
        answer(anna, review_case(tenant), Reply(Answer.FAKE, sentences=(sentence,)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, SENTENCES),
        ("One", ("One",)),
        ("  \n ", ()),
        ("It has 3.5 eyes, e.g. one too many. Odd.", ("It has 3.5 eyes, e.g. one too many.", "Odd.")),
        ("First line\nsecond line", ("First line", "second line")),
        ("Is it? 7 fingers… No!", ("Is it?", "7 fingers… No!")),
    ],
)
def test_sentences(text: str, expected: tuple[str, ...]) -> None:
    assert sights.sentences_of(text) == expected


def test_a_late_answer_writes_nothing(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        bert = make_person(session, tenant, email="bert@example.com")
    case_id = review_case(tenant)
    lost = claim(anna, case_id)
    expire(case_id)
    claim(bert, case_id)
    before = reread(case_id).sequence
    with pytest.raises(LostLease, match=r"bert@example\.com"), transaction() as session:
        reviews.answer(session, anna, case_id, lost, FAKE)
    assert reread(case_id).sequence == before
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Review)) == 0


def test_an_answer_sent_twice_at_once_is_stored_once(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    fence, gate = claim(anna, case_id), threading.Barrier(2, timeout=60)

    def send(reply: Reply) -> bool:
        gate.wait()
        try:
            with transaction() as session:
                reviews.answer(session, anna, case_id, fence, reply)
        except LostLease:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(send, (REAL, FAKE))) == [False, True]


def test_cannot_tell_leaves_the_case_in_review_for_a_lead(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    case = settled(anna, case_id, CANNOT_TELL)
    assert case.status is CaseStatus.IN_REVIEW and case.escalated_at is not None
    assert told(case_id) == []
    with transaction() as session:
        lead = make_person(session, tenant, role=Role.LEAD)
        assert queue.page(session, anna, Filter()) == []
        assert [entry.id for entry in queue.page(session, lead, Filter())] == [case_id]
    assert settled(lead, case_id, REAL).label is Label.REAL


# --- Appeals ---


def test_an_appeal_that_is_upheld_overturns_the_decision(tenant: Tenant, anna: Person) -> None:
    case_id = appealed_case(tenant)
    case = settled(anna, case_id, REAL)
    assert (case.label, case.decided_by) == (Label.REAL, DecidedBy.MODERATOR)
    assert told(case_id) == [EventType.DECISION_REVERSED, EventType.APPEAL_DECIDED]
    reversed_, outcome = events(case_id, EventType.DECISION_REVERSED)
    assert reversed_.before == {"status": "in_review", "label": "fake"}
    assert outcome.data is not None and outcome.data["appeal"] == {"outcome": "overturned", "message": None}
    assert outcome.sequence == (reversed_.sequence or 0) + 1


def test_an_appeal_that_is_turned_down_says_so_and_decides_nothing_new(tenant: Tenant, anna: Person) -> None:
    case_id = appealed_case(tenant)
    assert settled(anna, case_id, FAKE).label is Label.FAKE
    assert told(case_id) == [EventType.APPEAL_DECIDED]
    [outcome] = events(case_id, EventType.APPEAL_DECIDED)
    assert outcome.data is not None and outcome.data["appeal"] == {"outcome": "upheld", "message": None}


def test_an_appeal_begins_the_review_anew(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    settled(anna, case_id, CANNOT_TELL)
    with transaction() as session:
        lead = make_person(session, tenant, role=Role.LEAD)
    settled(lead, case_id, FAKE)
    with transaction() as session:
        cases.appeal(session, tenant.id, case_id, actor="test", message=None)
    case = reread(case_id)
    assert (case.escalated_at, case.assigned_to, case.held_until) == (None, None, None)


# --- Undo ---


def test_an_undone_answer_was_never_told_and_the_case_is_theirs_again(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    answer(anna, case_id, FAKE)
    with transaction() as session:
        fence = reviews.undo(session, anna, case_id).fence
    reviews.settle(case_id)
    assert (reread(case_id).status, told(case_id)) == (CaseStatus.IN_REVIEW, [])
    with transaction() as session:
        assert events_of(session, case_id)[-2:] == ["review.undone", "case.claimed"]
        reviews.answer(session, anna, case_id, fence, REAL)
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    assert reread(case_id).label is Label.REAL
    assert told(case_id) == [EventType.DECISION_CREATED]


def test_after_ten_seconds_it_is_too_late(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    answer(anna, case_id)
    ten_seconds_later(case_id)
    for _ in ("due", "settled"):
        with pytest.raises(Conflict, match="taken effect"), transaction() as session:
            reviews.undo(session, anna, case_id)
        reviews.settle(case_id)
    assert reread(case_id).status is CaseStatus.DECIDED


def test_nobody_undoes_somebody_elses_answer(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        lead = make_person(session, tenant, role=Role.LEAD)
    case_id = review_case(tenant)
    answer(anna, case_id)
    with pytest.raises(Conflict), transaction() as session:
        reviews.undo(session, lead, case_id)


def test_an_answered_case_is_in_nobodys_queue_while_it_can_be_undone(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        bert = make_person(session, tenant)
    case_id = review_case(tenant)
    answer(anna, case_id)
    with transaction() as session:
        assert queue.page(session, bert, Filter()) == []
        assert queue.totals(session, bert, Filter()).count == 0
    with pytest.raises(Conflict, match="not waiting"):
        claim(bert, case_id)


# --- Blind first ---


def test_the_verdict_of_a_blind_case_is_hidden_until_it_is_answered(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant, blind=True)
    with transaction() as session:
        seen = sights.sight(session, anna, case_id)
        assert (seen.hidden, seen.verdict, seen.sentences, seen.policy) == ({Hidden.VERDICT}, None, (), None)
        assert queue.page(session, anna, Filter())[0].score is None
    assert answer(anna, case_id).blind
    with transaction() as session:
        seen = sights.sight(session, anna, case_id)
        assert (seen.hidden, seen.sentences) == (set(), SENTENCES)
        colleague = make_person(session, tenant, role=Role.ADMIN)
        assert sights.sight(session, colleague, case_id).verdict is None


def test_who_undoes_has_seen_the_verdict_and_answers_no_more_blind(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant, blind=True)
    answer(anna, case_id)
    with transaction() as session:
        fence = reviews.undo(session, anna, case_id).fence
    with transaction() as session:
        assert not reviews.answer(session, anna, case_id, fence, REAL).blind


def test_nobody_grades_what_they_have_not_seen(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant, blind=True)
    with pytest.raises(InvalidRequest):
        answer(anna, case_id, Reply(Answer.FAKE, sentences=(Sentence(SENTENCES[0], Grade.RIGHT),)))


def test_blindness_is_drawn_once_with_the_tenants_share(tenant: Tenant) -> None:
    with transaction() as session:
        session.get_one(Tenant, tenant.id).blind_share = 1.0
        case = make_case(session, tenant, CaseStatus.IN_REVIEW)
        assert (case.blind, case.blind_probability) == (True, 1.0)
        session.get_one(Tenant, tenant.id).blind_share = 0.0
        other = make_case(session, tenant, CaseStatus.IN_REVIEW)
        assert (other.blind, other.blind_probability) == (False, 0.0)
        cases.decide(session, case, Label.REAL, DecidedBy.MODERATOR)
        cases.appeal(session, tenant.id, case.id, actor="test", message=None)
        assert (case.blind, case.blind_probability) == (True, 1.0), "as it was drawn the first time"


def test_by_default_a_tenth_of_the_cases_is_blind(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([0.0999, 0.1])
    monkeypatch.setattr(cases, "random", SimpleNamespace(random=lambda: next(drawn)))
    with transaction() as session:
        pair = [make_case(session, tenant, CaseStatus.IN_REVIEW) for _ in range(2)]
        assert [(case.blind, case.blind_probability) for case in pair] == [(True, 0.1), (False, 0.1)]


# --- Skip, hold, escalate, reassign ---

ACTIONS: dict[str, tuple[Callable[[Session, Person, UUID, int], object], EventType, ClaimEnd]] = {
    "skip": (reviews.skip, EventType.CASE_SKIPPED, ClaimEnd.SKIPPED),
    "hold": (lambda s, p, c, f: reviews.hold(s, p, c, f, timedelta(hours=1)), EventType.CASE_HELD, ClaimEnd.HELD),
    "escalate": (reviews.escalate, EventType.CASE_ESCALATED, ClaimEnd.ESCALATED),
    "reassign": (
        lambda s, p, c, f: reviews.reassign(s, p, c, f, p.user_id),
        EventType.CASE_REASSIGNED,
        ClaimEnd.REASSIGNED,
    ),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_ends_the_claim_and_is_written_down(tenant: Tenant, anna: Person, action: str) -> None:
    act, type_, how = ACTIONS[action]
    case_id = review_case(tenant)
    fence = claim(anna, case_id)
    with transaction() as session:
        act(session, anna, case_id, fence)
    [event] = events(case_id, type_)
    assert event.actor == f"user:{anna.user_id}"
    assert event.before and event.after and event.before["status"] == event.after["status"] == "in_review"
    assert event.before != event.after
    with transaction() as session:
        assert session.scalars(select(Claim)).one().end is how
        assert session.get_one(Case, case_id).status is CaseStatus.IN_REVIEW


@pytest.mark.parametrize("action", ACTIONS)
def test_no_action_without_the_claim(tenant: Tenant, anna: Person, action: str) -> None:
    case_id = review_case(tenant)
    before = claim(anna, case_id)
    claim(anna, case_id)
    with pytest.raises(LostLease), transaction() as session:
        ACTIONS[action][0](session, anna, case_id, before)


def test_a_skipped_case_is_for_others_and_for_oneself_in_an_hour(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        bert = make_person(session, tenant)
    case_id = review_case(tenant)
    fence = claim(anna, case_id)
    with transaction() as session:
        reviews.skip(session, anna, case_id, fence)
        session.flush()
        assert queue.candidates(session, anna, Filter(), limit=5) == []
        assert queue.candidates(session, bert, Filter(), limit=5) == [case_id]
        session.scalars(select(Claim)).one().ended_at = func.now() - timedelta(minutes=61)
        session.flush()
        assert queue.candidates(session, anna, Filter(), limit=5) == [case_id]


def test_a_held_case_comes_back_when_its_time_has_come(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    fence = claim(anna, case_id)
    with transaction() as session:
        reviews.hold(session, anna, case_id, fence, timedelta(hours=1))
        session.flush()
        assert queue.candidates(session, anna, Filter(), limit=5) == []
        assert [entry.id for entry in queue.page(session, anna, Filter(held=True))] == [case_id]
        session.get_one(Case, case_id).held_until = func.now() - timedelta(seconds=1)
        session.flush()
        assert queue.candidates(session, anna, Filter(), limit=5) == [case_id]


def test_a_hold_ends_with_handing_on(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    with transaction() as session:
        lead = make_person(session, tenant, role=Role.LEAD)
    fence = claim(anna, case_id)
    with transaction() as session:
        reviews.hold(session, anna, case_id, fence, timedelta(days=1))
    fence = claim(anna, case_id)
    with transaction() as session:
        reviews.escalate(session, anna, case_id, fence)
    with transaction() as session:
        assert queue.candidates(session, lead, Filter(), limit=5) == [case_id]


def test_a_case_of_before_gets_its_score_and_version_when_it_is_reopened(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    settled(anna, case_id, FAKE)
    with transaction() as session:
        case = session.get_one(Case, case_id)
        case.score = case.model_version_id = None
        assert case.verdict is not None
        expected = (case.verdict.p_fake, case.verdict.model_version_id)
    with transaction() as session:
        cases.appeal(session, tenant.id, case_id, actor="test", message=None)
    reopened = reread(case_id)
    assert (reopened.score, reopened.model_version_id) == expected


@pytest.mark.parametrize("span", [timedelta(0), timedelta(days=-1), timedelta(days=31)])
def test_no_case_is_held_for_ever_or_for_no_time(tenant: Tenant, anna: Person, span: timedelta) -> None:
    case_id = review_case(tenant)
    fence = claim(anna, case_id)
    with pytest.raises(InvalidRequest), transaction() as session:
        reviews.hold(session, anna, case_id, fence, span)


def test_an_assigned_case_comes_first_for_its_person_and_not_at_all_for_others(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        bert = make_person(session, tenant)
        urgent, assigned = make_review_case(session, tenant), make_review_case(session, tenant, score=0.7)
        urgent.priority = 3
    fence = claim(anna, assigned.id)
    with transaction() as session:
        reviews.reassign(session, anna, assigned.id, fence, bert.user_id)
        session.flush()
        assert queue.candidates(session, bert, Filter(), limit=5) == [assigned.id]
        assert queue.candidates(session, anna, Filter(), limit=5) == [urgent.id]
        assert [e.id for e in queue.page(session, bert, Filter(mine=True))] == [assigned.id]


def test_cases_are_assigned_only_to_those_who_may_answer_them(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        stranger = make_person(session, make_tenant(session))
        lead = make_person(session, tenant, role=Role.LEAD)
        case = make_review_case(session, tenant)
        restricted = make_review_case(session, tenant)
        restricted.restricted = True
    for who, case_id, to in ((anna, case.id, stranger), (lead, restricted.id, anna)):
        fence = claim(who, case_id)
        with pytest.raises(InvalidRequest), transaction() as session:
            reviews.reassign(session, who, case_id, fence, to.user_id)


# --- Who sees what ---


def test_restricted_cases_and_those_of_other_tenants_are_not_there(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        stranger = make_person(session, make_tenant(session), role=Role.ADMIN)
        restricted = make_review_case(session, tenant, external_id="bad")
        restricted.restricted = True
        plain = make_review_case(session, tenant)
    for who, case in ((stranger, plain), (stranger, restricted), (anna, restricted)):
        for look in (sights.sight, reviews.last_of):
            with pytest.raises(NotFound), transaction() as session:
                look(session, who, case.id)
        with pytest.raises(NotFound), transaction() as session:
            reviews.answer(session, who, case.id, 1, FAKE)
        with pytest.raises(NotFound), transaction() as session:
            reviews.undo(session, who, case.id)


def test_a_sight_names_who_acted(tenant: Tenant, anna: Person) -> None:
    case_id = review_case(tenant)
    claim(anna, case_id)
    with transaction() as session:
        seen = sights.sight(session, anna, case_id)
        assert seen.names == {f"user:{anna.user_id}": "anna@example.com"}
        assert seen.claim is not None and not seen.claim_expired
        assert seen.case.review_reason is ReviewReason.UNCERTAIN
    expire(case_id)
    with transaction() as session:
        assert sights.sight(session, anna, case_id).claim_expired
