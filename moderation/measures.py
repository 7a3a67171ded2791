"""What stands in Postgres, in a few numbers: what waits and for how long, what has failed, who judges, the last run.

Of all tenants together, and naming none. Each number is read from an index or a summary that something else needs
anyway, so that a million settled cases cost nothing; what waits is counted one by one, and costs as much as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from moderation import backlog
from moderation.backlog import Slice
from moderation.dispatch import OPEN, PENDING
from moderation.tables import FAILED, WAITING, Case, Endpoint, ModelVersion, Tenant, TrainingRun
from moderation.vocabulary import ModelStage, ReviewReason, RunStatus


class Queue(StrEnum):
    """Where something waits for a worker, or for a person."""

    SCREENING = "screening"
    FETCHING = "fetching"
    DELIVERY = "delivery"
    REVIEWS = "reviews"


class Backlog(StrEnum):
    """What people are asked."""

    IN_REVIEW = "in_review"  # what the policy left to them, and second opinions on that
    APPEAL = "appeal"
    AUDIT_SAMPLE = "audit_sample"


KINDS = {ReviewReason.APPEAL: Backlog.APPEAL, ReviewReason.AUDIT: Backlog.AUDIT_SAMPLE}


@dataclass(frozen=True)
class Line:
    """How many wait, and for how many seconds the first of them; None where nothing waits."""

    length: int
    oldest_s: float | None


@dataclass(frozen=True)
class Measures:
    """At one moment. `champion`: its name and kind; `run`: where the newest is; `run_ended`: when one ended last."""

    waiting: Mapping[Queue, Line]
    reviews: Mapping[Backlog, Line]
    failed_cases: int
    disabled_endpoints: int
    champion: tuple[str, str] | None
    run: RunStatus | None
    run_ended: datetime | None


# Nobody is at work on them: what a worker has taken does not wait.
_CASES = text(
    f"""
    SELECT status = 'fetching', count(*), extract(epoch FROM now() - min(queued_at))
    FROM cases
    WHERE {WAITING} AND (lease_until IS NULL OR lease_until <= now())
    GROUP BY 1
    """
)
# What is due now. Neither what its endpoint keeps us from sending, nor what is tried again later: neither waits for us.
_DELIVERIES = text(
    f"""
    WITH RECURSIVE {PENDING}
    SELECT coalesce(sum(due.length), 0), extract(epoch FROM now() - min(due.since))
    FROM pending
    JOIN endpoints ON endpoints.id = pending.endpoint_id
    CROSS JOIN LATERAL (
        SELECT count(*) AS length, min(next_attempt_at) AS since FROM deliveries
        WHERE endpoint_id = pending.endpoint_id AND status = 'pending' AND next_attempt_at <= now()
          AND (lease_until IS NULL OR lease_until <= now())
    ) AS due
    WHERE {OPEN}
    """
)


def taken(session: Session) -> Measures:
    """All of it now."""
    reviews = _reviews(session)
    champion = session.execute(
        select(ModelVersion.name, ModelVersion.manifest["kind"].astext).where(ModelVersion.stage == ModelStage.CHAMPION)
    ).one_or_none()
    return Measures(
        waiting={**_cases(session), Queue.DELIVERY: _deliveries(session), Queue.REVIEWS: _together(reviews)},
        reviews=reviews,
        failed_cases=session.scalar(select(func.count()).select_from(Case).where(text(FAILED))) or 0,
        disabled_endpoints=_disabled(session),
        champion=(champion[0], champion[1]) if champion else None,
        run=session.scalar(select(TrainingRun.status).order_by(TrainingRun.id.desc()).limit(1)),
        run_ended=session.scalar(select(func.max(TrainingRun.ended_at))),
    )


def _cases(session: Session) -> dict[Queue, Line]:
    lines = dict.fromkeys((Queue.SCREENING, Queue.FETCHING), Line(0, None))
    for is_fetching, length, oldest_s in session.execute(_CASES):
        lines[Queue.FETCHING if is_fetching else Queue.SCREENING] = Line(length, float(oldest_s))
    return lines


def _deliveries(session: Session) -> Line:
    length, oldest_s = session.execute(_DELIVERIES).one()
    return Line(int(length), None if oldest_s is None else float(oldest_s))


def _reviews(session: Session) -> dict[Backlog, Line]:
    tenants = session.scalars(select(Tenant.id)).all()
    found: dict[Backlog, list[Line]] = {kind: [] for kind in Backlog}
    for reason in ReviewReason:
        totals = backlog.totals(session, Slice(tenants, tenants, reason=reason))
        waited = (datetime.now(UTC) - totals.oldest).total_seconds() if totals.oldest else None
        found[KINDS.get(reason, Backlog.IN_REVIEW)].append(Line(totals.count, waited))
    return {kind: _sum(lines) for kind, lines in found.items()}


def _together(lines: Mapping[Backlog, Line]) -> Line:
    return _sum(list(lines.values()))


def _sum(lines: list[Line]) -> Line:
    waits = [line.oldest_s for line in lines if line.oldest_s is not None]
    return Line(sum(line.length for line in lines), max(waits, default=None))


def _disabled(session: Session) -> int:
    query = select(func.count()).select_from(Endpoint).where(Endpoint.disabled_at.is_not(None))
    return session.scalar(query) or 0
