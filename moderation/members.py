"""Who works for a platform, and as what: taken on, given another role, let go.

Accounts are one for each person, whatever platforms they work for; signing in is moderation/accounts.py's. What
somebody has in hand goes back to the others when they may no longer work on it. Every change writes an event.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from moderation import cases, claims, events, tenants
from moderation.accounts import Person
from moderation.db import FRESH, storable
from moderation.errors import Conflict, NotFound
from moderation.tables import Case, Claim, Event, Membership, Review, Tenant, User
from moderation.vocabulary import CaseStatus, ClaimEnd, EventType, Role

# 96 bits, 16 characters: to be typed once and changed.
PASSWORD_BYTES = 12


@dataclass(frozen=True)
class Worker:
    """Somebody who works for a tenant, with how many of its cases they have in hand and when they last answered one."""

    user: User
    role: Role
    in_hand: int
    answered_at: datetime | None


@dataclass(frozen=True)
class Returned:
    """What went back to the others: cases that were being worked on, and cases that were assigned."""

    claims: int
    assignments: int


def workers_of(session: Session, tenant_id: UUID) -> list[Worker]:
    """Everybody who works for the tenant, by address."""
    own = (Case.tenant_id == tenant_id, Case.status == CaseStatus.IN_REVIEW)
    in_hand = select(func.count()).join(Case).where(*own, Claim.user_id == User.id, Claim.ended_at.is_(None))
    answered = select(func.max(Review.created_at)).where(Review.user_id == User.id, Review.tenant_id == tenant_id)
    query = select(User, Membership.role, in_hand.select_from(Claim).scalar_subquery(), answered.scalar_subquery())
    query = query.join(Membership, Membership.user_id == User.id).where(Membership.tenant_id == tenant_id)
    return [Worker(*row) for row in session.execute(query.order_by(User.email))]


def add(session: Session, person: Person, tenant_id: UUID, email: str, role: Role) -> tuple[User, str | None]:
    """Let somebody work for the tenant. Who has no account gets one, and its first password is returned, once.

    Raises InvalidRequest for what is no address, Conflict for who works there already, whose account is disabled, or
    has nothing to do with `person`, in the same words whether that one is disabled or not.
    """
    email = storable(email.strip().lower())
    user = session.scalar(select(User).where(User.email == email))
    password = None
    if user is None:
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        user = tenants.create_user(session, email, password)
    else:
        _check_addable(session, person, tenant_id, user)
    tenants.add_member(session, user, session.get_one(Tenant, tenant_id), role, actor=person.actor)
    return user, password


def _check_addable(session: Session, person: Person, tenant_id: UUID, user: User) -> None:
    if session.get(Membership, (user.id, tenant_id)) is not None:
        raise Conflict(
            f"{user.email} works for this platform already: change their role in the list.", pointer="/email"
        )
    if not _is_known(session, person, tenant_id, user):
        raise Conflict(
            f"{user.email} has an account that is not of your platforms. Ask whoever runs Telltale to let them work "
            "here: `telltale users grant`.",
            pointer="/email",
        )
    if user.disabled_at is not None:
        raise Conflict(
            f"The account of {user.email} is disabled: whoever runs Telltale can enable it.", pointer="/email"
        )


def _is_known(session: Session, person: Person, tenant_id: UUID, user: User) -> bool:
    """Whether the account is of a platform that this person administers, or was of this one.

    Any other may have been made, in advance and under somebody else's address, by who still has its first password.
    """
    theirs = select(Membership.tenant_id).where(Membership.user_id == user.id)
    if session.scalar(theirs.where(Membership.tenant_id.in_(person.tenant_ids_as(Role.ADMIN))).limit(1)) is not None:
        return True
    left = select(Event.id).where(Event.tenant_id == tenant_id, Event.type == EventType.MEMBER_REMOVED)
    return session.scalar(left.where(Event.before["user"].astext == user.email).limit(1)) is not None


def change_role(session: Session, tenant_id: UUID, user_id: UUID, role: Role, *, actor: str) -> Returned:
    """Give somebody another role; what is for leads goes back where they are none any more.

    Raises NotFound, Conflict for the last administrator.
    """
    membership = _membership(session, tenant_id, user_id)
    if not role.covers(Role.ADMIN):
        _keep_an_admin(session, membership)
    user = session.get_one(User, user_id)
    tenants.add_member(session, user, session.get_one(Tenant, tenant_id), role, actor=actor)
    if role.covers(Role.LEAD):
        return Returned(0, 0)
    return _give_back(session, tenant_id, user_id, only_for_leads=True, actor=actor)


def remove(session: Session, tenant_id: UUID, user_id: UUID, *, actor: str) -> Returned:
    """Let somebody go; their account stays, for other platforms. Raises NotFound, Conflict for the last administrator.

    An answer that can still be undone takes effect: it was given while they worked there.
    """
    membership = _membership(session, tenant_id, user_id)
    _keep_an_admin(session, membership)
    user = session.get_one(User, user_id)
    session.delete(membership)
    session.flush()
    before = {"user": user.email, "role": membership.role.value}
    events.record(session, EventType.MEMBER_REMOVED, tenant_id=tenant_id, actor=actor, before=before)
    return _give_back(session, tenant_id, user_id, only_for_leads=False, actor=actor)


def give_back_all(session: Session, user_id: UUID, *, actor: str) -> Returned:
    """Return all that somebody has in hand, for whatever tenant, to the others: their account was closed."""
    theirs = select(Membership.tenant_id).where(Membership.user_id == user_id).order_by(Membership.tenant_id)
    returned = [
        _give_back(session, tenant_id, user_id, only_for_leads=False, actor=actor)
        for tenant_id in session.scalars(theirs).all()
    ]
    return Returned(sum(one.claims for one in returned), sum(one.assignments for one in returned))


def _membership(session: Session, tenant_id: UUID, user_id: UUID) -> Membership:
    """With all of the tenant's memberships locked, so that two administrators cannot each remove the other."""
    everybody = select(Membership).where(Membership.tenant_id == tenant_id).order_by(Membership.user_id)
    locked = session.scalars(everybody.with_for_update(), execution_options=FRESH).all()
    found = next((membership for membership in locked if membership.user_id == user_id), None)
    if found is None:
        raise NotFound("Nobody of this id works for this platform.")
    return found


def _keep_an_admin(session: Session, leaving: Membership) -> None:
    others = select(func.count()).select_from(Membership).join(User, User.id == Membership.user_id)
    others = others.where(Membership.tenant_id == leaving.tenant_id, Membership.user_id != leaving.user_id)
    others = others.where(Membership.role == Role.ADMIN, User.disabled_at.is_(None))
    if leaving.role is Role.ADMIN and not session.scalar(others):
        raise Conflict("A platform keeps at least one administrator: make somebody else one first.")


def _give_back(session: Session, tenant_id: UUID, user_id: UUID, *, only_for_leads: bool, actor: str) -> Returned:
    """End this person's claims and assignments for the tenant, each with an event of its case."""
    claimed = select(Claim.case_id).where(Claim.user_id == user_id, Claim.ended_at.is_(None))
    theirs = select(Case).where(Case.tenant_id == tenant_id, Case.status == CaseStatus.IN_REVIEW)
    theirs = theirs.where(or_(Case.id.in_(claimed), Case.assigned_to == user_id))
    if only_for_leads:
        theirs = theirs.where(or_(Case.restricted, Case.escalated_at.is_not(None)))
    locked = theirs.order_by(Case.id).with_for_update(of=Case)
    found = session.scalars(locked, execution_options=FRESH).all()
    ended = sum(_end_claim(session, case, user_id, actor=actor) for case in found)
    unassigned = sum(_unassign(session, case, user_id, actor=actor) for case in found)
    return Returned(ended, unassigned)


def _end_claim(session: Session, case: Case, user_id: UUID, *, actor: str) -> bool:
    current = claims.live(session, case.id)
    if current is None or current.user_id != user_id:
        return False
    claims.end(current, ClaimEnd.RELEASED)
    was = {"fence": current.fence, "claimed_by": f"user:{user_id}"}
    cases.note(session, case, EventType.CASE_UNCLAIMED, actor=actor, was=was, now={})
    return True


def _unassign(session: Session, case: Case, user_id: UUID, *, actor: str) -> bool:
    if case.assigned_to != user_id:
        return False
    case.assigned_to = None
    was = {"assigned_to": f"user:{user_id}"}
    cases.note(session, case, EventType.CASE_REASSIGNED, actor=actor, was=was, now={"assigned_to": None})
    return True
