"""What moderators answer, and what else they do with a case: skip, hold, hand on.

An answer takes effect ten seconds after it was given. Until then the case stays in review with `answer_due` set, out of
everybody's queue, and nobody is told: undoing (`undo`) only takes that back. When the time has come, the relay finds
the case in state, as it finds all work, and `settle` decides it: status, event and deliveries in one commit. So an
answer that was undone never reached a platform, by webhook or by API, and no delivery ever has to be recalled.

Everything but `settle` is done under a claim (moderation/claims.py), and every action writes an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from moderation import cases, claims, opinions, sights
from moderation.accounts import Person
from moderation.db import FRESH, storable, transaction
from moderation.errors import Conflict, InvalidRequest
from moderation.sights import pending
from moderation.tables import Case, Claim, Membership, Review, ReviewedSentence, User
from moderation.vocabulary import (
    QUIET,
    Answer,
    Artifact,
    ClaimEnd,
    EventType,
    Grade,
    Hidden,
    Label,
    ReviewReason,
    Role,
)

UNDO = timedelta(seconds=10)
LONGEST_HOLD = timedelta(days=30)
MAX_TEXT = 4000  # characters of a note or of one sentence
MAX_MESSAGE = 1000  # characters of a message to the platform, which has to fit into an event
MAX_ADDITIONS = 20


@dataclass(frozen=True)
class Sentence:
    """One sentence of an explanation: the model's, graded and perhaps rewritten, or, with `said` None, an addition."""

    said: str | None = None
    grade: Grade | None = None
    written: str | None = None


@dataclass(frozen=True)
class Reply:
    """All that a moderator says of an image; `message` is for who appealed, `disturbing` for nobody but themselves."""

    answer: Answer
    artifacts: frozenset[Artifact] = frozenset()
    sentences: tuple[Sentence, ...] = ()
    note: str | None = None
    message: str | None = None
    disturbing: bool = False


@dataclass(frozen=True)
class Undoable:
    """An answer that can still be taken back, for so many seconds."""

    case_id: UUID
    answer: Answer
    seconds: float


def answer(session: Session, person: Person, case_id: UUID, fence: int, reply: Reply) -> Review:
    """Answer a case under this person's claim; it takes effect after UNDO.

    Raises NotFound, LostLease (late: nothing is written), InvalidRequest.
    """
    case, claim = claims.held(session, person, case_id, fence)
    blind = Hidden.VERDICT in sights.hidden_from(session, person, case)
    _check(case, reply, blind=blind)
    due = _now(session) + UNDO
    review = Review(
        tenant_id=case.tenant_id,
        case_id=case.id,
        claim_id=claim.id,
        user_id=person.user_id,
        verdict_id=case.verdict_id,
        reason=case.review_reason,
        answer=reply.answer,
        artifacts=sorted(reply.artifacts),
        note=_kept(reply.note),
        message=_kept(reply.message),
        blind=blind,
        disturbing=reply.disturbing,
        due_at=due,
        sentences=[
            ReviewedSentence(position=position, said=said.said, grade=said.grade, written=_kept(said.written))
            for position, said in enumerate(reply.sentences)
        ],
    )
    session.add(review)
    claims.end(claim, ClaimEnd.ANSWERED)
    case.answer_due = due
    session.flush()
    said = {"answer": reply.answer.value, "review": str(review.id), "takes_effect": due.isoformat()}
    cases.note(session, case, EventType.REVIEW_ANSWERED, actor=person.actor, was={}, now=said)
    return review


def reveals(review: Review) -> bool:
    """Whether its author now sees what was hidden; where that was the decision too, not before it takes effect."""
    return review.blind and review.reason in opinions.FIRST


def _check(case: Case, reply: Reply, *, blind: bool) -> None:
    shown = () if blind else sights.sentences_shown(case.verdict)
    for sentence in reply.sentences:
        if sentence.said is not None and sentence.said not in shown:
            raise InvalidRequest("A sentence that was graded is not one of the explanation's: load the case again.")
        if (sentence.said is None) != (sentence.grade is None) or not (sentence.said or sentence.written):
            raise InvalidRequest("A sentence is either the model's and graded, or yours and written.")
    if sum(sentence.said is None for sentence in reply.sentences) > MAX_ADDITIONS:
        raise InvalidRequest(f"At most {MAX_ADDITIONS} sentences can be added.")
    written = [reply.note, *(sentence.written for sentence in reply.sentences)]
    if any(len(text) > MAX_TEXT for text in written if text):
        raise InvalidRequest(f"A note or a sentence has at most {MAX_TEXT} characters.")
    if _kept(reply.message) and case.review_reason is not ReviewReason.APPEAL:
        raise InvalidRequest("Only the answer to an appeal comes with a message to the platform.")
    if len(reply.message or "") > MAX_MESSAGE:
        raise InvalidRequest(f"The message to the platform has at most {MAX_MESSAGE} characters.")


def _kept(text: str | None) -> str | None:
    return storable(text.strip()) if text and text.strip() else None


def undo(session: Session, person: Person, case_id: UUID) -> Claim:
    """Take back this person's answer and the case with it, while it has not taken effect.

    Raises NotFound, Conflict where it is too late or there is nothing of theirs to undo.
    """
    case = claims.case_for(session, person, case_id, lock=True)
    review = pending(session, case.id)
    if review is None or review.user_id != person.user_id:
        raise Conflict("There is no answer of yours to undo: it has taken effect.")
    if review.due_at <= _now(session):
        raise Conflict("The ten seconds are over: the answer has taken effect.")
    withdraw(session, case, review, actor=person.actor)
    return claims.claim(session, person, case_id)


def withdraw(session: Session, case: Case, review: Review, *, actor: str) -> None:
    """Take back an answer that has not taken effect: it stays written down, and nobody is told. The case is locked."""
    review.undone_at = _now(session)
    case.answer_due = case.offered_until = None
    session.flush()
    was = {"answer": review.answer.value, "review": str(review.id)}
    cases.note(session, case, EventType.REVIEW_UNDONE, actor=actor, was=was, now={})


def settle(case_id: UUID) -> None:
    """Put an answer into effect, once its time has come. Doing it twice is harmless."""
    with transaction(wake=True) as session:
        query = select(Case).where(Case.id == case_id).with_for_update(of=Case)
        case = session.scalar(query, execution_options=FRESH)
        review = pending(session, case_id)
        if case is not None and review is not None and review.due_at <= _now(session):
            take_effect(session, case, review)


def take_effect(session: Session, case: Case, review: Review) -> None:
    """Decide the case as it was answered, or hand it to the leads where that settles nothing. The case is locked."""
    review.settled_at = _now(session)
    case.offered_until = None
    actor = f"user:{review.user_id}"
    if _is_for_a_lead(case, review):
        case.answer_due = None
        _to_lead(session, case, actor=actor, now={"answer": review.answer.value, "review": str(review.id)})
    elif review.answer is Answer.CANNOT_TELL:
        cases.uphold(session, case, actor=actor, review_id=review.id)
    else:
        label = Label(review.answer.value)
        cases.rule(session, case, label, actor=actor, review_id=review.id, message=review.message)
        opinions.ask_another(session, case, review)


def _is_for_a_lead(case: Case, review: Review) -> bool:
    """Who cannot tell asks a lead, and so does a second opinion that differs from the first.

    A lead's answer is the last one. Where a decision stands, one who cannot tell either leaves it as it is.
    """
    if case.review_reason in QUIET and case.escalated_at is not None:
        return False
    differs = case.review_reason is ReviewReason.SECOND_OPINION and review.answer.value != case.label
    return differs or review.answer is Answer.CANNOT_TELL


def skip(session: Session, person: Person, case_id: UUID, fence: int) -> None:
    """Leave the case to others; it is not offered to this person again for a while. Raises NotFound, LostLease."""
    case, claim = claims.held(session, person, case_id, fence)
    claims.end(claim, ClaimEnd.SKIPPED)
    cases.note(session, case, EventType.CASE_SKIPPED, actor=person.actor, was={"fence": fence}, now={})


def hold(session: Session, person: Person, case_id: UUID, fence: int, span: timedelta) -> datetime:
    """Put the case aside, for everybody, and return until when. Raises NotFound, LostLease, InvalidRequest."""
    if not timedelta(0) < span <= LONGEST_HOLD:
        raise InvalidRequest(f"A case is held for at most {LONGEST_HOLD.days} days.")
    case, claim = claims.held(session, person, case_id, fence)
    claims.end(claim, ClaimEnd.HELD)
    until = _now(session) + span
    was = {"held_until": case.held_until.isoformat() if case.held_until else None}
    case.held_until = until
    now = {"held_until": until.isoformat()}
    cases.note(session, case, EventType.CASE_HELD, actor=person.actor, was=was, now=now)
    return until


def escalate(session: Session, person: Person, case_id: UUID, fence: int) -> None:
    """Hand the case to the tenant's leads. Raises NotFound, LostLease."""
    case, claim = claims.held(session, person, case_id, fence)
    claims.end(claim, ClaimEnd.ESCALATED)
    _to_lead(session, case, actor=person.actor, now={})


def _to_lead(session: Session, case: Case, *, actor: str, now: dict[str, Any]) -> None:
    was = {"escalated": case.escalated_at is not None, "assigned_to": _named(case.assigned_to)}
    case.escalated_at = case.escalated_at or _now(session)
    case.assigned_to = case.held_until = None
    now = {"escalated": True, "assigned_to": None, **now}
    cases.note(session, case, EventType.CASE_ESCALATED, actor=actor, was=was, now=now)


def reassign(session: Session, person: Person, case_id: UUID, fence: int, to: UUID) -> None:
    """Hand the case to one colleague. Raises NotFound, LostLease, InvalidRequest for who may not work on it."""
    case, claim = claims.held(session, person, case_id, fence)
    if to not in {user.id for user in colleagues(session, case)}:
        raise InvalidRequest("They may not work on this case: choose somebody from the list.")
    claims.end(claim, ClaimEnd.REASSIGNED)
    was = {"assigned_to": _named(case.assigned_to)}
    case.assigned_to, case.held_until = to, None
    now = {"assigned_to": _named(to)}
    cases.note(session, case, EventType.CASE_REASSIGNED, actor=person.actor, was=was, now=now)


def _named(user_id: UUID | None) -> str | None:
    return f"user:{user_id}" if user_id else None


def colleagues(session: Session, case: Case) -> Sequence[User]:
    """Everybody whom this case may be handed to, by address.

    Nobody where it is answered again: who is missing from the list would be who answered it before.
    """
    if case.review_reason in opinions.AGAIN:
        return ()
    leads_only = case.restricted or case.escalated_at is not None
    roles = [role for role in Role if not leads_only or role.covers(Role.LEAD)]
    query = select(User).join(Membership, Membership.user_id == User.id).where(User.disabled_at.is_(None))
    query = query.where(Membership.tenant_id == case.tenant_id, Membership.role.in_(roles))
    return session.scalars(query.order_by(User.email)).all()


def undoable(session: Session, person: Person, case_id: UUID) -> Undoable | None:
    """This person's answer to a case, while they can undo it."""
    review = pending(session, case_id)
    if review is None or review.user_id != person.user_id:
        return None
    seconds = (review.due_at - _now(session)).total_seconds()
    return Undoable(case_id, review.answer, seconds) if seconds > 0 else None


def last_of(session: Session, person: Person, case_id: UUID) -> Review | None:
    """This person's latest answer to a case, with its sentences, whatever became of it. Raises NotFound."""
    claims.case_for(session, person, case_id)
    query = select(Review).where(Review.case_id == case_id, Review.user_id == person.user_id)
    query = query.options(selectinload(Review.sentences))
    return session.scalar(query.order_by(Review.id.desc()).limit(1))


def _now(session: Session) -> datetime:
    now = session.scalar(select(func.clock_timestamp()))
    assert isinstance(now, datetime)
    return now
