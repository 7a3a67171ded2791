"""The same action on many cases of the queue, for leads.

Each case is claimed and acted upon as it would be alone, in a transaction of its own: with its own events, and with the
same refusals. What is refused is left as it is, and said with its reason; the others are done. It adds no way around a
claim: a case that somebody is at work on is left to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from moderation import cases, claims, reviews
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import Conflict, Forbidden, InvalidRequest, NotFound
from moderation.reviews import Reply
from moderation.vocabulary import ClaimEnd, EventType, Priority, Role

MOST = 100

Action = Callable[[Session, Person, UUID, int], object]


@dataclass(frozen=True)
class Left:
    """A case that was left as it is, by the name its platform gave it, and why."""

    case_id: UUID
    name: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a bulk action."""

    done: int
    left: Sequence[Left]


def do(person: Person, case_ids: Sequence[UUID], action: Action) -> Outcome:
    """Do it to each of the cases. Raises InvalidRequest for none and for more than MOST."""
    chosen = list(dict.fromkeys(case_ids))
    if not chosen:
        raise InvalidRequest("No case is selected: tick some first.")
    if len(chosen) > MOST:
        raise InvalidRequest(f"At most {MOST} cases can be changed at once; {len(chosen)} are selected.")
    tried = [_one(person, case_id, action) for case_id in chosen]
    left = [one for one in tried if one is not None]
    return Outcome(len(chosen) - len(left), left)


def _one(person: Person, case_id: UUID, action: Action) -> Left | None:
    name = str(case_id)
    try:
        with transaction() as session:
            case = claims.case_for(session, person, case_id)
            name = case.submission.external_id or name
            person.require(Role.LEAD, case.tenant_id)
            action(session, person, case_id, claims.claim(session, person, case_id).fence)
    except (Conflict, Forbidden, InvalidRequest, NotFound) as error:
        return Left(case_id, name, error.message)
    return None


def hand_on(to: UUID) -> Action:
    """To one colleague."""
    return lambda session, person, case_id, fence: reviews.reassign(session, person, case_id, fence, to)


def hold(span: timedelta) -> Action:
    """Aside, for everybody."""
    return lambda session, person, case_id, fence: reviews.hold(session, person, case_id, fence, span)


def to_lead() -> Action:
    """To the leads."""
    return reviews.escalate


def answer(reply: Reply) -> Action:
    """With the same answer; on what is answered blind it counts as blind."""
    return lambda session, person, case_id, fence: reviews.answer(session, person, case_id, fence, reply)


def prioritise(priority: Priority) -> Action:
    """Change how urgent it is."""

    def action(session: Session, person: Person, case_id: UUID, fence: int) -> None:
        case, claim = claims.held(session, person, case_id, fence)
        claims.end(claim, ClaimEnd.RELEASED)
        was = {"priority": list(Priority)[case.priority].value}
        case.priority = priority.rank
        now = {"priority": priority.value}
        cases.note(session, case, EventType.CASE_PRIORITISED, actor=person.actor, was=was, now=now)

    return action
