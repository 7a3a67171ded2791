"""What the review queue holds, counted."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Float, Identity
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from moderation.tables.row import Row
from moderation.vocabulary import ReviewReason


class QueueChange(Row):
    """A case came into the review queue (`amount` 1) or left it (-1) as it is here. Written by triggers on `cases`.

    Only ever added to, so that no commit waits for another; moderation/backlog.py sums it up. `score` is None
    where it is hidden; `for_leads`: restricted or escalated.
    """

    __tablename__ = "queue_changes"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant_id: Mapped[UUID]
    for_leads: Mapped[bool]
    priority: Mapped[int]
    review_reason: Mapped[ReviewReason | None]
    category: Mapped[str | None]
    model_version_id: Mapped[UUID | None]
    score: Mapped[float | None]
    settled_at: Mapped[datetime]
    amount: Mapped[int]


class QueueSummary(Row):
    """The cases of one kind that were in the review queue when this was written: since when, oldest first, and scores.

    `scores` are theirs in the same order; `ranked` are those that are not None, in their own.
    """

    __tablename__ = "queue_summaries"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(index=True)
    for_leads: Mapped[bool]
    priority: Mapped[int]
    review_reason: Mapped[ReviewReason | None]
    category: Mapped[str | None]
    model_version_id: Mapped[UUID | None]
    count: Mapped[int]
    oldest: Mapped[datetime] = mapped_column(index=True)
    since: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))
    scores: Mapped[list[float | None]] = mapped_column(ARRAY(Float))
    ranked: Mapped[list[float]] = mapped_column(ARRAY(Float))
