"""Claims: a person's lease on a case in review, so that two never work on one.

A lease is renewed while the page is open; once it has run out, somebody else may take the case, and until somebody
does, it is still good. Each take gets the case's next fence, and whoever writes must hold the newest (`held`). Times
are the database's. It does not know what is answered.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, selectinload

from moderation import cases, opinions, queue
from moderation.accounts import Person
from moderation.db import FRESH
from moderation.errors import Conflict, Forbidden, LostLease, NotFound
from moderation.queue import Filter
from moderation.tables import Case, Claim
from moderation.vocabulary import CaseStatus, ClaimEnd, EventType, Role

# Browsers let a page in the background speak once a minute.
LEASE = timedelta(minutes=2)
HEARTBEAT = timedelta(seconds=20)
TRIES = 20

_EXPIRED = Claim.lease_until <= func.clock_timestamp()


def case_for(session: Session, person: Person, case_id: UUID, *, lock: bool = False) -> Case:
    """A case as this person may see it. Raises NotFound, also for restricted cases of others than leads."""
    query = select(Case).where(Case.id == case_id)
    if lock:
        query = query.with_for_update(of=Case).execution_options(**FRESH)
    case = session.scalar(query)
    role = person.role_in(case.tenant_id) if case else None
    if case is None or role is None or (case.restricted and not role.covers(Role.LEAD)):
        raise NotFound(f"There is no case {case_id}.")
    return case


def claim(session: Session, person: Person, case_id: UUID) -> Claim:
    """Take a case. Who has it already takes it anew, and their older page loses it.

    Raises NotFound; Forbidden where it is for a lead, or for somebody else; Conflict where somebody else is at
    work on it, or nothing is left to answer.
    """
    case = case_for(session, person, case_id, lock=True)
    refused = refusal(session, person, case)
    if refused is not None:
        raise Forbidden(refused)
    if case.status is not CaseStatus.IN_REVIEW or case.answer_due is not None:
        raise Conflict("This case is not waiting for an answer any more.")
    _end_former(session, person, case)
    case.fence += 1
    taken = Claim(case_id=case.id, user_id=person.user_id, fence=case.fence, lease_until=func.clock_timestamp() + LEASE)
    session.add(taken)
    session.flush()
    cases.note(session, case, EventType.CASE_CLAIMED, actor=person.actor, was={}, now={"fence": case.fence})
    return taken


def refusal(session: Session, person: Person, case: Case) -> str | None:
    """In plain words, why the case is not this person's to answer, whoever is at it just now; None where it is."""
    role = person.role_in(case.tenant_id)
    if role is None or not role.covers(Role.LEAD):
        if case.restricted or case.escalated_at is not None:
            return "This case is for a lead to answer."
        if queue.is_anothers(session, person, case):
            return "This case is for somebody else to answer: it was handed to them."
    if opinions.is_anothers(session, person.user_id, case):
        return "You have answered this case before: now it is somebody else's turn."
    return None


def _end_former(session: Session, person: Person, case: Case) -> None:
    """Make room for a new claim. Raises Conflict where somebody else's still runs."""
    former = live(session, case.id)
    if former is None:
        return
    mine = former.user_id == person.user_id
    if not mine and not session.scalar(select(_EXPIRED).where(Claim.id == former.id)):
        raise Conflict(f"{former.user.email} is at work on this case.")
    end(former, ClaimEnd.RELEASED if mine else ClaimEnd.EXPIRED)
    # Before the new one goes in: there is one at a time.
    session.flush()


def claim_next(session: Session, person: Person, filter_: Filter) -> Claim | None:
    """Take the next case of this person's queue; None where there is none left."""
    for case_id in queue.candidates(session, person, filter_, limit=TRIES):
        query = select(Case.id).where(Case.id == case_id).with_for_update(skip_locked=True)
        if session.scalar(query) is None:
            continue  # somebody is taking it at this moment
        try:
            return claim(session, person, case_id)
        except (Conflict, Forbidden, NotFound):
            continue  # somebody took it, or handed it to somebody else, since the queue was read
    return None


def live(session: Session, case_id: UUID) -> Claim | None:
    """The claim there is on a case, expired or not."""
    query = select(Claim).where(Claim.case_id == case_id, Claim.ended_at.is_(None)).options(selectinload(Claim.user))
    return session.scalar(query, execution_options=FRESH)


def held(session: Session, person: Person, case_id: UUID, fence: int) -> tuple[Case, Claim]:
    """The case under this person's claim, locked. Raises NotFound, and LostLease where the claim has ended."""
    case = case_for(session, person, case_id, lock=True)
    current = live(session, case.id)
    if current is None or current.user_id != person.user_id or current.fence != fence:
        who = f"{current.user.email} has it now" if current else "nobody has it now"
        raise LostLease(f"You no longer hold this case; {who}.")
    return case, current


def renew(session: Session, person: Person, case_id: UUID, fence: int) -> None:
    """The page is still open. Raises NotFound, and LostLease where the claim has ended."""
    case_for(session, person, case_id)
    renewed = session.scalar(
        update(Claim)
        .where(
            Claim.case_id == case_id,
            Claim.user_id == person.user_id,
            Claim.fence == fence,
            Claim.ended_at.is_(None),
        )
        .values(lease_until=func.clock_timestamp() + LEASE)
        .returning(Claim.id)
    )
    if renewed is None:
        raise LostLease("You no longer hold this case.")


def release(session: Session, person: Person, case_id: UUID, fence: int) -> bool:
    """The person left. False where the claim had ended before; then nothing is changed. Raises NotFound."""
    try:
        case, current = held(session, person, case_id, fence)
    except LostLease:
        return False
    end(current, ClaimEnd.RELEASED)
    cases.note(session, case, EventType.CASE_UNCLAIMED, actor=person.actor, was={"fence": fence}, now={})
    return True


def end(current: Claim, how: ClaimEnd) -> None:
    """The claim is over; its row stays."""
    current.ended_at = func.clock_timestamp()
    current.end = how


def withdraw(session: Session, case: Case) -> None:
    """Nobody is at work on this case any more: it has become something else. Whoever was, is told by their page."""
    current = live(session, case.id)
    if current is not None:
        end(current, ClaimEnd.WITHDRAWN)
        session.flush()
