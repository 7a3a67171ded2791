"""A case as one person may see it: what is hidden from them until they have answered, and why.

*Blind first*: the verdict, until they have answered. *Audit* and *appeal*: the verdict and the decision, with whoever
had a part in it. *Second opinion*: the decision and the first answer, and the verdict too where the case is blind.
These three hide it until the answer has taken effect, so that nobody looks, takes the answer back and gives another
one. Where a second opinion settled nothing, a lead sees all. What is hidden is nowhere in a `Sight` but in its `case`:
whoever shows a case asks `hidden` before its label or score.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, selectinload

from moderation import claims, opinions
from moderation.accounts import Person
from moderation.db import FRESH
from moderation.tables import Case, Claim, Event, Policy, Review, SimilarImage, User, Verdict
from moderation.vocabulary import Answer, CaseStatus, EventType, Hidden, ReviewReason, Role

# An end mark, perhaps in quotes or brackets, then space and what can begin a sentence. "e.g. a hand" is not cut.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])|\n+")
# Of what was before a case was reopened, this tells nothing of how it was decided.
_HARMLESS = frozenset(
    {
        EventType.SUBMISSION_ACCEPTED,
        EventType.CASE_FETCHED,
        EventType.CASE_TAKEN,
        EventType.CASE_RELEASED,
        EventType.CASE_RETRIED,
        EventType.VERDICT_FAILED,
        EventType.VERDICT_COMPLETED,
    }
)
_REOPENINGS = frozenset({EventType.CASE_SAMPLED, EventType.CASE_APPEALED})


@dataclass(frozen=True)
class Sight:
    """What this person sees of a case. `answers` are those that have taken effect, oldest first.

    `refusal` says in plain words why the case is not theirs to answer, where it is not.
    """

    case: Case
    tenant: str
    hidden: frozenset[Hidden]
    verdict: Verdict | None
    sentences: tuple[str, ...]
    policy: Policy | None
    claim: Claim | None
    claim_expired: bool
    refusal: str | None
    pending: Review | None
    answers: Sequence[Review]
    history: Sequence[Event]
    names: dict[str, str] = field(default_factory=dict)


def sight(session: Session, person: Person, case_id: UUID) -> Sight:
    """A case with all that its page shows. Raises NotFound."""
    case = claims.case_for(session, person, case_id)
    hidden = hidden_from(session, person, case)
    verdict = None if Hidden.VERDICT in hidden else case.verdict
    claim = claims.live(session, case_id)
    history = _history(session, case, hidden)
    return Sight(
        case=case,
        tenant=next(member.tenant for member in person.memberships if member.tenant_id == case.tenant_id),
        hidden=hidden,
        verdict=verdict,
        sentences=sentences_shown(verdict),
        policy=None if Hidden.VERDICT in hidden else case.policy,
        claim=claim,
        claim_expired=claim is not None and claim.lease_until <= session.scalars(select(func.clock_timestamp())).one(),
        refusal=claims.refusal(session, person, case),
        pending=pending(session, case_id),
        answers=() if Hidden.DECISION in hidden else _answers(session, case),
        history=history,
        names=_names(session, history),
    )


def hidden_from(session: Session, person: Person, case: Case) -> frozenset[Hidden]:
    """What this person must not see of a case before they have answered it."""
    return hidden_in(session, person, [case])[case.id]


def hidden_in(session: Session, person: Person, cases: Collection[Case]) -> dict[UUID, frozenset[Hidden]]:
    """The same of several cases, by id, in one query."""
    given: dict[UUID, list[Review]] = {case.id: [] for case in cases if case.status is CaseStatus.IN_REVIEW}
    if given:
        for review in session.scalars(select(Review).where(Review.case_id.in_(given))):
            given[review.case_id].append(review)
    return {case.id: _hidden(person, case, given.get(case.id, ())) for case in cases}


def is_hidden(session: Session, person: Person, case_id: UUID) -> bool:
    """Whether anything of a case is hidden from this person. Raises NotFound."""
    return bool(hidden_from(session, person, claims.case_for(session, person, case_id)))


def _hidden(person: Person, case: Case, given: Sequence[Review]) -> frozenset[Hidden]:
    if case.status is not CaseStatus.IN_REVIEW:
        return frozenset()
    own = [review for review in given if review.user_id == person.user_id]
    if case.review_reason in opinions.FIRST:
        # An answer that was taken back counts: they have seen the verdict.
        return frozenset({Hidden.VERDICT} if case.blind and not own else ())
    decided = any(review.settled_at is not None and review.answer is not Answer.CANNOT_TELL for review in own)
    if decided or opinions.are_two(case, given):
        return frozenset()
    if case.review_reason is ReviewReason.SECOND_OPINION and not case.blind:
        return frozenset({Hidden.DECISION})
    return frozenset(Hidden)


def swaying(session: Session, person: Person, images: Collection[UUID]) -> set[UUID]:
    """Which of these images are those, or similar to those, of cases that are blind to this person.

    How other cases of them ended is not to come to meet somebody in a list. Whoever opens one meant to see it.
    """
    near = session.execute(
        select(SimilarImage.image_id, SimilarImage.other_id).where(SimilarImage.image_id.in_(images))
    ).all()
    pairs = {*((row.image_id, row.other_id) for row in near), *((id_, id_) for id_ in images)}
    likenesses = {other for _, other in pairs}
    query = select(Case).where(Case.image_id.in_(likenesses), Case.status == CaseStatus.IN_REVIEW)
    led = person.tenant_ids_as(Role.LEAD)
    query = query.where(Case.tenant_id.in_(person.tenant_ids), or_(Case.restricted.is_(False), Case.tenant_id.in_(led)))
    open_ = session.scalars(query).all()
    hidden = hidden_in(session, person, open_)
    kept = {case.image_id for case in open_ if Hidden.VERDICT in hidden[case.id]}
    return {image for image, other in pairs if other in kept}


def veiled(session: Session, person: Person, events: Sequence[Event]) -> set[UUID]:
    """Which of these events tell what is hidden from this person of a case, by id: who did it, or what it changed.

    Beside what the case's own history leaves out these are answers that have not taken effect.
    """
    ids = {event.case_id for event in events if event.case_id is not None}
    open_ = session.scalars(select(Case).where(Case.id.in_(ids), Case.status == CaseStatus.IN_REVIEW)).all()
    hidden = {id_: what for id_, what in hidden_in(session, person, open_).items() if what}
    reopened = _reopened(session, hidden)
    return {
        event.id
        for event in events
        if event.case_id in hidden
        and (_is_answer(event) or _tells(event, hidden[event.case_id], reopened.get(event.case_id, 0)))
    }


def _reopened(session: Session, ids: Collection[UUID]) -> dict[UUID, int]:
    """The sequence of the event with which each case came back last; those that never did are left out."""
    if not ids:
        return {}
    query = select(Event).where(Event.case_id.in_(ids), Event.type.in_(_REOPENINGS)).order_by(Event.sequence)
    return {event.case_id: event.sequence or 0 for event in session.scalars(query) if event.case_id is not None}


def _is_answer(event: Event) -> bool:
    return "answer" in {**(event.before or {}), **(event.after or {})}


def _tells(event: Event, hidden: frozenset[Hidden], reopened: int) -> bool:
    """Whether it is of before the case came back, and not harmless."""
    return Hidden.DECISION in hidden and (event.sequence or 0) < reopened and event.type not in _HARMLESS


def sentences_of(explanation: str) -> tuple[str, ...]:
    """The sentences to be graded, in their order."""
    return tuple(part.strip() for part in _SENTENCE_END.split(explanation) if part.strip())


def sentences_for(session: Session, person: Person, case_id: UUID) -> tuple[str, ...]:
    """The sentences that this person may grade. Raises NotFound."""
    case = claims.case_for(session, person, case_id)
    hidden = Hidden.VERDICT in hidden_from(session, person, case)
    return () if hidden else sentences_shown(case.verdict)


def sentences_shown(verdict: Verdict | None) -> tuple[str, ...]:
    """The sentences of its explanation, which moderators grade."""
    return sentences_of(verdict.explanation.text) if verdict and verdict.explanation else ()


def pending(session: Session, case_id: UUID) -> Review | None:
    """The answer that has not taken effect yet."""
    query = select(Review).where(Review.case_id == case_id, Review.settled_at.is_(None), Review.undone_at.is_(None))
    return session.scalar(query.execution_options(**FRESH))


def _answers(session: Session, case: Case) -> Sequence[Review]:
    query = select(Review).where(Review.case_id == case.id, Review.settled_at.is_not(None)).order_by(Review.id)
    return session.scalars(query.options(selectinload(Review.user))).all()


def _history(session: Session, case: Case, hidden: frozenset[Hidden]) -> Sequence[Event]:
    events = session.scalars(select(Event).where(Event.case_id == case.id).order_by(Event.sequence)).all()
    reopened = max((event.sequence or 0 for event in events if event.type in _REOPENINGS), default=0)
    return [event for event in events if not _tells(event, hidden, reopened)]


def _names(session: Session, history: Sequence[Event]) -> dict[str, str]:
    """Who `user:<id>` is, for those who acted."""
    ids = {UUID(event.actor.removeprefix("user:")) for event in history if event.actor.startswith("user:")}
    users = session.scalars(select(User).where(User.id.in_(ids)))
    return {f"user:{user.id}": user.email for user in users}
