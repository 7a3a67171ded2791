"""Work that somebody asked for (rows of the shape `tables.Asked`): taken under a lease, kept, given back, given up.

As cases are, but it knows nothing of them, nor of what is to be done.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import func, or_, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from moderation.cases import MAX_FAILURE_DETAIL
from moderation.db import FRESH, storable
from moderation.leases import Lease
from moderation.tables import Asked

Row = TypeVar("Row", bound=Asked)


def take(
    session: Session, rows: type[Row], key: InstrumentedAttribute[UUID], id_: UUID, lease: timedelta
) -> Row | None:
    """The row, leased; None where there is none that is due, or another worker has it."""
    now = func.now()
    taken = (
        update(rows)
        .where(
            key == id_,
            rows.failed_at.is_(None),
            rows.next_attempt_at <= now,
            or_(rows.lease_until.is_(None), rows.lease_until <= now),
        )
        .values(lease_until=now + lease, offered_until=None, fence=rows.fence + 1, attempts=rows.attempts + 1)
        .returning(rows)
    )
    return session.scalar(taken, execution_options=FRESH)


def is_held(row: Asked, lease: Lease) -> bool:
    """Whether the row, as it is once locked, is still under this lease."""
    return row.fence == lease.fence and row.lease_until is not None


def give_back(row: Asked, delay: timedelta, *, counts: bool) -> None:
    """To be tried again after `delay`; `counts` says whether the attempt does."""
    row.lease_until = row.offered_until = None
    row.next_attempt_at = func.now() + delay
    if not counts:
        row.attempts -= 1


def fail(row: Asked, detail: str) -> None:
    """It cannot be done, and says why; it stays until somebody asks again."""
    row.lease_until = row.offered_until = None
    row.failed_at = func.now()
    row.failure_detail = told(detail)


def told(detail: str) -> str:
    """What went wrong, as a row keeps it."""
    return storable(detail[:MAX_FAILURE_DETAIL])
