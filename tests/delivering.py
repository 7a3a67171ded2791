"""A delivery on its way: queued, taken, sent to a stub of a receiver, settled."""

from __future__ import annotations

import http.server
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, select, update

from moderation import attempts, endpoints
from moderation.attempts import Outcome, Parcel
from moderation.db import transaction
from moderation.settings import Settings, settings
from moderation.tables import Delivery, DeliveryAttempt, Endpoint, Event
from moderation.vocabulary import EventType

LEASE = timedelta(seconds=30)


def answered(status: int | None, retry_after: int | None = None) -> Outcome:
    """What an endpoint answered, or that it did not."""
    error = None if status is not None else "It does not answer."
    return Outcome(status, "", error, 5, retry_after)


def pinged(endpoint: Endpoint) -> UUID:
    """A delivery to this endpoint that is due."""
    with transaction() as session:
        return endpoints.ping(session, session.get_one(Endpoint, endpoint.id)).id


def taken(delivery_id: UUID, lease: timedelta = LEASE) -> Parcel:
    """The delivery under way, whenever it is due."""
    with transaction() as session:
        session.execute(
            update(Delivery).where(Delivery.id == delivery_id).values(next_attempt_at=datetime(2020, 1, 1, tzinfo=UTC))
        )
    with transaction() as session:
        parcel = attempts.take(session, delivery_id, lease)
    assert parcel is not None
    return parcel


def settle(parcel: Parcel, outcome: Outcome) -> Delivery:
    """The delivery after this attempt."""
    with transaction() as session:
        assert attempts.settle(session, parcel, outcome) is not None
        session.flush()
        return session.get_one(Delivery, parcel.delivery_id, populate_existing=True)


def wait_of(delivery: Delivery) -> float:
    """Seconds from its last attempt in the log until the next."""
    return (delivery.next_attempt_at - _last(DeliveryAttempt.delivery_id == delivery.id)).total_seconds()


def pause_of(endpoint: Endpoint) -> float:
    """Seconds for which the endpoint is left alone, from the last attempt at it."""
    paused_until = reread(endpoint).paused_until
    assert paused_until is not None
    return (paused_until - _last(Delivery.endpoint_id == endpoint.id)).total_seconds()


def _last(which: ColumnElement[bool]) -> datetime:
    """When the last of these attempts was settled: the moment, by the database's clock, that all waits are from."""
    with transaction() as session:
        query = select(DeliveryAttempt.created_at).join(Delivery, Delivery.id == DeliveryAttempt.delivery_id)
        return session.scalars(query.where(which).order_by(DeliveryAttempt.created_at.desc()).limit(1)).one()


def reread(endpoint: Endpoint) -> Endpoint:
    """The endpoint as it is now."""
    with transaction() as session:
        return session.get_one(Endpoint, endpoint.id)


def receiver(
    status: int, headers: dict[str, str] | None = None
) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """A platform that answers everything so."""

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"got it")

    return handle


def sending(*ports: int, timeout_s: float = 60.0) -> Settings:
    """Settings that let deliveries reach these ports here."""
    hosts = tuple(f"127.0.0.1:{port}" for port in ports)
    return settings().model_copy(update={"allowed_hosts": hosts, "delivery_timeout_s": timeout_s})


def told(tenant_id: UUID, type_: EventType) -> list[Event]:
    """The events of this type that the tenant has, oldest first."""
    with transaction() as session:
        query = select(Event).where(Event.tenant_id == tenant_id, Event.type == type_).order_by(Event.id)
        return list(session.scalars(query))
