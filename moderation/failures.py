"""Cases that ended without a verdict, for the people who can have them tried again.

How a case fails and is retried is moderation/cases.py's; this finds them, of one tenant, newest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, literal_column, select
from sqlalchemy.orm import Session, selectinload

from moderation import cases
from moderation.tables import FAILED, Case
from moderation.vocabulary import FailureReason

# Retried in one transaction, which locks them all.
MAX_RETRIED = 500
# Literally as in the index, or Postgres does not see that it may use it.
_FAILED: ColumnElement[bool] = literal_column(f"({FAILED})")


@dataclass(frozen=True)
class Filter:
    """Which failed cases; the times are of when they failed."""

    reason: FailureReason | None = None
    since: datetime | None = None
    until: datetime | None = None


def page(
    session: Session, tenant_id: UUID, filter_: Filter, *, before: UUID | None = None, limit: int
) -> Sequence[Case]:
    """The tenant's failed cases from just before the case `before` on (keyset paging)."""
    query = select(Case).where(*_conditions(tenant_id, filter_)).options(selectinload(Case.submission))
    if before is not None:
        query = query.where(Case.id < before)
    return session.scalars(query.order_by(Case.id.desc()).limit(limit)).all()


def counts(session: Session, tenant_id: UUID, filter_: Filter) -> dict[FailureReason, int]:
    """How many there are for each reason, the most frequent first."""
    query = select(Case.failure_reason, func.count()).where(*_conditions(tenant_id, filter_))
    rows = session.execute(query.group_by(Case.failure_reason).order_by(func.count().desc(), Case.failure_reason))
    return {reason: count for reason, count in rows if reason is not None}


def retry_all(session: Session, tenant_id: UUID, filter_: Filter, *, actor: str) -> int:
    """Have the newest MAX_RETRIED of them tried again, each with its event; returns how many."""
    ids = select(Case.id).where(*_conditions(tenant_id, filter_)).order_by(Case.id.desc()).limit(MAX_RETRIED)
    # Those that somebody else retries in the same moment are theirs.
    locked = session.scalars(ids.with_for_update(skip_locked=True)).all()
    for case_id in locked:
        cases.retry(session, tenant_id, case_id, actor=actor)
    return len(locked)


def _conditions(tenant_id: UUID, filter_: Filter) -> list[ColumnElement[bool]]:
    wanted = [Case.tenant_id == tenant_id, _FAILED]
    if filter_.reason is not None:
        wanted.append(Case.failure_reason == filter_.reason)
    if filter_.since is not None:
        wanted.append(Case.settled_at >= filter_.since)
    if filter_.until is not None:
        wanted.append(Case.settled_at < filter_.until)
    return wanted
