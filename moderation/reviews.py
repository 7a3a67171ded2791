"""What moderators answer, and what else they do with a case: skip, hold, hand on.

An answer takes effect ten seconds after it was given. Until then the case stays in review with `answer_due` set, out of
everybody's queue, and nobody is told: undoing (`undo`) only takes that back. When the time has come, the relay finds
the case in state, as it finds all work, and `settle` decides it: status, event and deliveries in one commit. So an
answer that was undone never reached a platform, by webhook or by API, and no delivery ever has to be recalled.

Everything but `settle` is done under a claim (moderation/claims.py), and every action writes an event.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from moderation import cases, claims
from moderation.accounts import Person
from moderation.db import storable, transaction
from moderation.errors import Conflict, InvalidRequest
from moderation.tables import Case, Claim, Event, Membership, Policy, Review, ReviewedSentence, User, Verdict
from moderation.vocabulary import (
    Answer,
    Artifact,
    CaseStatus,
    ClaimEnd,
    EventType,
    Grade,
    Label,
    Role,
)

UNDO = timedelta(seconds=10)
LONGEST_HOLD = timedelta(days=30)
MAX_TEXT = 4000  # characters of a note or of one sentence
MAX_ADDITIONS = 20

# An end mark, perhaps in quotes or brackets, then space and what can begin a sentence. "e.g. a hand" is not cut.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])|\n+")


@dataclass(frozen=True)
class Sentence:
    """One sentence of an explanation: the model's, graded and perhaps rewritten, or, with `said` None, an addition."""

    said: str | None = None
    grade: Grade | None = None
    written: str | None = None


@dataclass(frozen=True)
class Reply:
    """All that a moderator says of an image."""

    answer: Answer
    artifacts: frozenset[Artifact] = frozenset()
    sentences: tuple[Sentence, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Sight:
    """A case as one person may see it. Of a blind case that they have not answered: no verdict and no explanation."""

    case: Case
    tenant: str
    blind: bool
    verdict: Verdict | None
    sentences: tuple[str, ...]
    policy: Policy | None
    claim: Claim | None
    claim_expired: bool
    pending: Review | None
    history: Sequence[Event]
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Undoable:
    """An answer that can still be taken back, for so many seconds."""

    case_id: UUID
    answer: Answer
    seconds: float


def sentences_of(explanation: str) -> tuple[str, ...]:
    """The sentences to be graded, in their order."""
    return tuple(part.strip() for part in _SENTENCE_END.split(explanation) if part.strip())


def answer(session: Session, person: Person, case_id: UUID, fence: int, reply: Reply) -> Review:
    """Answer a case under this person's claim; it takes effect after UNDO.

    Raises NotFound, LostLease (late: nothing is written), InvalidRequest.
    """
    case, claim = claims.held(session, person, case_id, fence)
    blind = _blind_to(session, person, case)
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
        blind=blind,
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


def _check(case: Case, reply: Reply, *, blind: bool) -> None:
    shown = () if blind else _shown_sentences(case.verdict)
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
    now = _now(session)
    if review.due_at <= now:
        raise Conflict("The ten seconds are over: the answer has taken effect.")
    review.undone_at = now
    case.answer_due = case.offered_until = None
    session.flush()
    was = {"answer": review.answer.value, "review": str(review.id)}
    cases.note(session, case, EventType.REVIEW_UNDONE, actor=person.actor, was=was, now={})
    return claims.claim(session, person, case_id)


def settle(case_id: UUID) -> None:
    """Put an answer into effect, once its time has come. Doing it twice is harmless."""
    with transaction(wake=True) as session:
        query = select(Case).where(Case.id == case_id).with_for_update(of=Case)
        case = session.scalar(query, execution_options=cases.FRESH)
        review = pending(session, case_id)
        if case is None or review is None or review.due_at > _now(session):
            return
        review.settled_at = _now(session)
        actor = f"user:{review.user_id}"
        case.offered_until = None
        if review.answer is Answer.CANNOT_TELL:
            case.answer_due = None
            _to_lead(session, case, actor=actor, now={"answer": review.answer.value, "review": str(review.id)})
        else:
            cases.rule(session, case, Label(review.answer.value), actor=actor, review_id=review.id)


def pending(session: Session, case_id: UUID) -> Review | None:
    """The answer that has not taken effect yet."""
    query = select(Review).where(Review.case_id == case_id, Review.settled_at.is_(None), Review.undone_at.is_(None))
    return session.scalar(query, execution_options=cases.FRESH)


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
    """Everybody who may work on this case, by address."""
    leads_only = case.restricted or case.escalated_at is not None
    roles = [role for role in Role if not leads_only or role.covers(Role.LEAD)]
    query = select(User).join(Membership, Membership.user_id == User.id).where(User.disabled_at.is_(None))
    query = query.where(Membership.tenant_id == case.tenant_id, Membership.role.in_(roles))
    return session.scalars(query.order_by(User.email)).all()


def sight(session: Session, person: Person, case_id: UUID) -> Sight:
    """A case with all that its page shows. Raises NotFound."""
    case = claims.case_for(session, person, case_id)
    blind = _blind_to(session, person, case)
    verdict = None if blind else case.verdict
    claim = claims.live(session, case_id)
    history = session.scalars(select(Event).where(Event.case_id == case_id).order_by(Event.sequence)).all()
    tenant = next(member.tenant for member in person.memberships if member.tenant_id == case.tenant_id)
    return Sight(
        case=case,
        tenant=tenant,
        blind=blind,
        verdict=verdict,
        sentences=_shown_sentences(verdict),
        policy=None if blind else case.policy,
        claim=claim,
        claim_expired=claim is not None and claim.lease_until <= _now(session),
        pending=pending(session, case_id),
        history=history,
        names=_names(session, history),
    )


def _shown_sentences(verdict: Verdict | None) -> tuple[str, ...]:
    return sentences_of(verdict.explanation.text) if verdict and verdict.explanation else ()


def _names(session: Session, history: Sequence[Event]) -> dict[str, str]:
    """Who `user:<id>` is, for those who acted."""
    ids = {UUID(event.actor.removeprefix("user:")) for event in history if event.actor.startswith("user:")}
    users = session.scalars(select(User).where(User.id.in_(ids)))
    return {f"user:{user.id}": user.email for user in users}


def _blind_to(session: Session, person: Person, case: Case) -> bool:
    """Whether the verdict is hidden from this person: on a blind case until they have answered it, undone or not."""
    if not case.blind or case.status is not CaseStatus.IN_REVIEW:
        return False
    own = select(Review.id).where(Review.case_id == case.id, Review.user_id == person.user_id)
    return session.scalar(own.limit(1)) is None


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
