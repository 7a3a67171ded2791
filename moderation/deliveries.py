"""Deliveries: the log of what was sent to endpoints, and sending it again.

A delivery is made with its event (moderation/events.py); what becomes of it is moderation/attempts.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, literal_column, or_, select, true, update
from sqlalchemy.orm import Session, joinedload

from moderation import endpoints
from moderation.errors import NotFound
from moderation.tables import Delivery, DeliveryAttempt, Endpoint, Event
from moderation.vocabulary import OPERATOR, DeliveryStatus, EventType


def delivery_of(session: Session, tenant_id: UUID, delivery_id: UUID, *, lock: bool = True) -> Delivery:
    """One of the tenant's deliveries. Raises NotFound."""
    query = select(Delivery).join(Endpoint).where(Delivery.id == delivery_id, Endpoint.tenant_id == tenant_id)
    delivery = session.scalar(query.with_for_update(of=Delivery) if lock else query)
    if delivery is None:
        raise NotFound(f"There is no delivery {delivery_id}.")
    return delivery


def listed(
    session: Session,
    tenant_id: UUID,
    *,
    before: UUID | None = None,
    limit: int = 50,
    endpoint_id: UUID | None = None,
    status: DeliveryStatus | None = None,
    type_: EventType | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Delivery]:
    """The tenant's deliveries with event and endpoint, newest first, from just before the delivery `before` on.

    `since` and `until` are when their events were.
    """
    own: list[ColumnElement[bool]] = []
    if before is not None:
        own.append(Delivery.id < before)
    if endpoint_id is not None:
        own.append(Delivery.endpoint_id == endpoint_id)
    if status is not None:
        own.append(Delivery.status == status)
    events: list[ColumnElement[bool]] = []
    if type_ is not None:
        events.append(Event.type == type_)
    if since is not None:
        events.append(Event.created_at >= since)
    if until is not None:
        events.append(Event.created_at < until)
    wanted = select(Delivery.id).where(*own)
    ids = _newest(session, tenant_id, wanted.join(Event).where(*events) if events else wanted, limit)
    query = select(Delivery).where(Delivery.id.in_(ids)).order_by(Delivery.id.desc())
    return list(session.scalars(query.options(joinedload(Delivery.event), joinedload(Delivery.endpoint))))


def _newest(session: Session, tenant_id: UUID, wanted: Select[UUID], limit: int) -> Sequence[UUID]:
    """The newest of a tenant's deliveries: those of each endpoint from its part of the index, and then of them all."""
    # Said and not bound: a plan for any number of rows would read them all.
    few: ColumnElement[int] = literal_column(str(limit))
    of_each = wanted.where(Delivery.endpoint_id == Endpoint.id).correlate(Endpoint).order_by(Delivery.id.desc())
    own = of_each.limit(few).lateral("own")
    query = select(own.c.id).select_from(Endpoint).join(own, true()).where(Endpoint.tenant_id == tenant_id)
    return session.scalars(query.order_by(own.c.id.desc()).limit(few)).all()


def attempts_of(session: Session, deliveries: Sequence[Delivery]) -> dict[UUID, list[DeliveryAttempt]]:
    """The log of each of these deliveries, oldest attempt first."""
    logged: dict[UUID, list[DeliveryAttempt]] = {delivery.id: [] for delivery in deliveries}
    query = select(DeliveryAttempt).where(DeliveryAttempt.delivery_id.in_(logged)).order_by(DeliveryAttempt.id)
    for attempt in session.scalars(query):
        logged[attempt.delivery_id].append(attempt)
    return logged


def replay(session: Session, delivery: Delivery, *, actor: str = OPERATOR) -> None:
    """Send one delivery again from the start of the schedule, whatever became of it; the receiver sees the same id."""
    before = {"status": delivery.status.value, "attempts": delivery.attempts}
    delivery.status = DeliveryStatus.PENDING
    delivery.attempts = 0
    delivery.next_attempt_at = func.now()
    delivery.delivered_at = delivery.offered_until = delivery.lease_until = None
    delivery.fence += 1
    after = {"delivery": str(delivery.id)}
    endpoints.note(session, EventType.DELIVERY_REPLAYED, delivery.endpoint, actor=actor, before=before, after=after)


def replay_range(
    session: Session, endpoint: Endpoint, since: datetime, until: datetime, *, actor: str = OPERATOR
) -> int:
    """Send again everything this endpoint was due between two times, as `replay` does; returns how many."""
    again = (
        update(Delivery)
        .where(*_due_between(endpoint, since, until))
        .values(
            status=DeliveryStatus.PENDING,
            attempts=0,
            next_attempt_at=func.now(),
            delivered_at=None,
            offered_until=None,
            lease_until=None,
            fence=Delivery.fence + 1,
        )
        .execution_options(synchronize_session=False)
    )
    count = session.connection().execute(again).rowcount
    said = {"since": since.isoformat(), "until": until.isoformat(), "deliveries": count}
    if count:
        endpoints.note(session, EventType.DELIVERY_REPLAYED, endpoint, actor=actor, after=said)
    return count


def count_range(session: Session, endpoint: Endpoint, since: datetime, until: datetime) -> int:
    """How many `replay_range` would send again."""
    query = select(func.count()).select_from(Delivery).where(*_due_between(endpoint, since, until))
    return session.scalar(query) or 0


def _due_between(endpoint: Endpoint, since: datetime, until: datetime) -> tuple[ColumnElement[bool], ...]:
    # Events that are everybody's have no tenant.
    whose = or_(Event.tenant_id == endpoint.tenant_id, Event.tenant_id.is_(None))
    events = select(Event.id).where(whose, Event.created_at >= since, Event.created_at < until)
    return Delivery.endpoint_id == endpoint.id, Delivery.event_id.in_(events)
