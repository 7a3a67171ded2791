"""Illegal content: a case that only leads see, and that nothing is ever trained on.

Any moderator may report a case as illegal; from then on it is the leads', whatever its status. A lead may lift that. It
does not decide the case: somebody still says whether the image is real.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from moderation import cases, claims
from moderation.accounts import Person
from moderation.db import storable
from moderation.errors import Conflict, InvalidRequest
from moderation.vocabulary import EventType, Role

MAX_NOTE = 2000  # characters


def report(session: Session, person: Person, case_id: UUID, note: str | None = None) -> None:
    """Keep a case from everybody but leads; whoever is at work on it loses it.

    Raises NotFound, InvalidRequest for a note that is too long, Conflict where it was reported before.
    """
    if len(note or "") > MAX_NOTE:
        raise InvalidRequest(f"What you say of it has at most {MAX_NOTE} characters.")
    case = claims.case_for(session, person, case_id, lock=True)
    if case.restricted:
        raise Conflict("This case was reported before: only leads see it.")
    claims.withdraw(session, case)
    case.restricted = True
    case.assigned_to = case.held_until = None
    now = {"restricted": True, **({"message": storable(note.strip())} if note and note.strip() else {})}
    cases.note(session, case, EventType.CASE_RESTRICTED, actor=person.actor, was={"restricted": False}, now=now)


def lift(session: Session, person: Person, case_id: UUID) -> None:
    """Not illegal after all: the case is everybody's again. Raises NotFound, Forbidden, Conflict."""
    case = claims.case_for(session, person, case_id, lock=True)
    person.require(Role.LEAD, case.tenant_id)
    if not case.restricted:
        raise Conflict("This case is not restricted.")
    case.restricted = False
    was, now = {"restricted": True}, {"restricted": False}
    cases.note(session, case, EventType.CASE_UNRESTRICTED, actor=person.actor, was=was, now=now)
