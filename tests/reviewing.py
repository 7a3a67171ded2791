"""People and cases for the tests of reviewing, and hands for the clock: claims that ran out, answers that are due."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from moderation import tenants
from moderation.accounts import Member, Person
from moderation.db import new_id, transaction
from moderation.tables import Case, Claim, Explanation, Review, Tenant, User
from moderation.vocabulary import CaseStatus, Role
from tests.factories import make_case

_numbers = itertools.count(1)
TEXT = "This is a fake image. The left hand has six fingers. Light falls from two sides!"
SENTENCES = ("This is a fake image.", "The left hand has six fingers.", "Light falls from two sides!")
LONG_AGO = timedelta(minutes=10)


def make_person(session: Session, *tenants_: Tenant, role: Role = Role.MODERATOR, email: str | None = None) -> Person:
    """Somebody who is signed in and has this role for these tenants. Their password is no password."""
    user = User(email=email or f"person{next(_numbers)}@example.com", password_hash="none")
    session.add(user)
    session.flush()
    for tenant in tenants_:
        tenants.add_member(session, user, tenant, role)
    session.flush()
    return Person(user.id, user.email, new_id(), tuple(Member(tenant.id, tenant.name, role) for tenant in tenants_))


def make_review_case(
    session: Session, tenant: Tenant, *, score: float = 0.5, blind: bool = False, text: str | None = TEXT, **fields: Any
) -> Case:
    """A case in review with an explanation; `blind` says what was drawn, `fields` are of `make_case`."""
    case = make_case(session, tenant, CaseStatus.IN_REVIEW, **fields)
    assert case.verdict is not None
    case.score = case.verdict.p_fake = score
    case.blind = blind
    if text is not None:
        session.add(Explanation(verdict_id=case.verdict.id, model_version_id=case.verdict.model_version_id, text=text))
    session.flush()
    return case


def expire(case_id: UUID) -> None:
    """The person who claimed this case has not been heard of for a long time."""
    with transaction() as session:
        session.execute(update(Claim).where(Claim.case_id == case_id).values(lease_until=func.now() - LONG_AGO))


def ten_seconds_later(case_id: UUID) -> None:
    """The case's answer is due."""
    with transaction() as session:
        session.execute(update(Case).where(Case.id == case_id).values(answer_due=func.now() - LONG_AGO))
        session.execute(update(Review).where(Review.case_id == case_id).values(due_at=func.now() - LONG_AGO))
