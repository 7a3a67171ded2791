"""What happened, and who is told of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from moderation.tables.accounts import Tenant
from moderation.tables.cases import Case
from moderation.tables.row import AsSent, Identified, Row
from moderation.vocabulary import DeliveryStatus, EventType

# A case went to review, or left it.
ENTERED_REVIEW = "after ->> 'status' = 'in_review' AND before ->> 'status' <> 'in_review'"
LEFT_REVIEW = "before ->> 'status' = 'in_review' AND after ->> 'status' <> 'in_review'"


def _events(name: str, which: str, *also: str) -> Index:
    """An index of some of a tenant's events by their time."""
    return Index(name, "tenant_id", "created_at", postgresql_where=which, postgresql_include=also or None)


class Event(Identified, Row):
    """The audit trail: who did what, and how it was before and after. Append only; a trigger refuses changes."""

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "case_id", "sequence", unique=True),
        Index(None, "tenant_id", "created_at"),
        _events("ix_events_review_entered", ENTERED_REVIEW, "case_id"),
        _events("ix_events_review_left", LEFT_REVIEW, "case_id"),
        _events("ix_events_policy_changed", "type = 'policy.changed'"),
    )

    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey(Tenant.id))
    case_id: Mapped[UUID | None] = mapped_column(ForeignKey(Case.id))
    sequence: Mapped[int | None]
    type: Mapped[EventType]
    actor: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    # What endpoints are sent as `data`; None for events that stay inside.
    data: Mapped[AsSent | None]
    request_id: Mapped[str | None]


class Endpoint(Identified, Row):
    """Where one tenant wants its events. Secrets are sealed (moderation/sealing.py); several while one rotates."""

    __tablename__ = "endpoints"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), index=True)
    url: Mapped[str]
    secrets: Mapped[list[str]]
    event_types: Mapped[list[str]] = mapped_column(comment="empty: all")
    failing_since: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]


class Delivery(Identified, Row):
    """One event on its way to one endpoint."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "endpoint_id"),
        Index("ix_deliveries_due", "endpoint_id", "next_attempt_at", postgresql_where="status = 'pending'"),
        Index("ix_deliveries_listed", "endpoint_id", "id"),
    )

    event_id: Mapped[UUID] = mapped_column(ForeignKey(Event.id))
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey(Endpoint.id))
    status: Mapped[DeliveryStatus] = mapped_column(server_default=DeliveryStatus.PENDING)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    offered_until: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]

    event: Mapped[Event] = relationship()
    endpoint: Mapped[Endpoint] = relationship()


class DeliveryAttempt(Identified, Row):
    """The delivery log: what the endpoint answered, or why it could not be reached."""

    __tablename__ = "delivery_attempts"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey(Delivery.id), index=True)
    attempt: Mapped[int]
    response_status: Mapped[int | None]
    response_excerpt: Mapped[str | None]
    error: Mapped[str | None]
    elapsed_ms: Mapped[int]
