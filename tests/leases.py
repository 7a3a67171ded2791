"""Hands for the clock of workers' leases on cases: they run out when a test says so, however slow the machine is."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update

from moderation.db import transaction
from moderation.tables import Case

LONG_AGO = timedelta(minutes=10)


def lapse() -> None:
    """Nobody has heard for a long time of the workers that have cases, nor has the broker of those cases."""
    past = func.now() - LONG_AGO
    with transaction() as session:
        session.execute(update(Case).where(Case.lease_until.is_not(None)).values(lease_until=past))
        session.execute(update(Case).where(Case.offered_until.is_not(None)).values(offered_until=past))


def is_kept(case_id: UUID) -> bool:
    """Whether a worker's lease on the case runs."""
    with transaction() as session:
        return bool(session.scalar(select(Case.lease_until > func.now()).where(Case.id == case_id)))
