"""Endpoints: where a tenant wants its events, which of them, and what signs what is sent there.

Everything that somebody does with one is an event; no event, and no log, holds a secret.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from moderation import addresses, events, sealing, signing
from moderation.db import new_id
from moderation.errors import InvalidRequest, NotFound
from moderation.settings import Settings
from moderation.tables import Delivery, Endpoint, Event
from moderation.vocabulary import OPERATOR, OUTBOUND, EventType


def create(
    session: Session, tenant_id: UUID, url: str, event_types: list[str], settings: Settings, *, actor: str = OPERATOR
) -> Endpoint:
    """Register where a tenant wants its events; the secret is made here, and `secrets_of` opens it to be shown once.

    Raises AddressRefused where the URL is not one we would call, InvalidRequest for an unknown event type.
    """
    addresses.check_url(url, settings)
    _check_types(event_types)
    endpoint = Endpoint(id=new_id(), tenant_id=tenant_id, url=url, event_types=event_types)
    endpoint.secrets = [sealing.seal(signing.new_secret(), endpoint.id)]
    session.add(endpoint)
    session.flush()
    note(session, EventType.ENDPOINT_CREATED, endpoint, actor=actor, after={"event_types": event_types})
    return endpoint


def secrets_of(endpoint: Endpoint) -> list[str]:
    """What signs its deliveries, the newest first: to sign with, and to be shown just after it was made.

    Raises Unreadable for want of its key.
    """
    return [sealing.unseal(stored, endpoint.id) for stored in endpoint.secrets]


def change(session: Session, endpoint: Endpoint, event_types: list[str], *, actor: str) -> None:
    """Send other types of events there from now on; none stands for all. Raises InvalidRequest for an unknown type."""
    _check_types(event_types)
    if event_types == endpoint.event_types:
        return
    before, endpoint.event_types = {"event_types": endpoint.event_types}, event_types
    after = {"event_types": event_types}
    note(session, EventType.ENDPOINT_CHANGED, endpoint, actor=actor, before=before, after=after)


def endpoint_of(session: Session, tenant_id: UUID, endpoint_id: UUID) -> Endpoint:
    """One of the tenant's endpoints. Raises NotFound."""
    endpoint = session.get(Endpoint, endpoint_id)
    if endpoint is None or endpoint.tenant_id != tenant_id:
        raise NotFound(f"There is no endpoint {endpoint_id}.")
    return endpoint


def listed(session: Session, tenant_id: UUID) -> list[Endpoint]:
    """All of the tenant's endpoints, oldest first."""
    return list(session.scalars(select(Endpoint).where(Endpoint.tenant_id == tenant_id).order_by(Endpoint.id)))


def rotate_secret(session: Session, endpoint: Endpoint, *, actor: str = OPERATOR) -> str:
    """Add a new secret in front; deliveries are signed with the newest two, so receivers can change over in peace."""
    fresh = signing.new_secret()
    # Anew and locked: of two rotations at once, the second keeps what the first made.
    session.refresh(endpoint, with_for_update={"key_share": True})
    endpoint.secrets = [sealing.seal(fresh, endpoint.id), *endpoint.secrets[:1]]
    note(session, EventType.ENDPOINT_SECRET_ROTATED, endpoint, actor=actor)
    return fresh


def enable(session: Session, endpoint: Endpoint, *, actor: str = OPERATOR) -> None:
    """Start sending again; what is pending goes out at the next turn."""
    before = {"disabled_reason": endpoint.disabled_reason}
    endpoint.disabled_at = endpoint.disabled_reason = endpoint.failing_since = endpoint.paused_until = None
    note(session, EventType.ENDPOINT_ENABLED, endpoint, actor=actor, before=before)


def disable(session: Session, endpoint: Endpoint, reason: str, *, actor: str = "delivery") -> None:
    """Stop sending to an endpoint, and tell the tenant's other endpoints. What is pending stays and can be replayed."""
    endpoint.disabled_at = datetime.now(UTC)
    endpoint.disabled_reason = reason
    session.flush()
    id_ = str(endpoint.id)
    events.record(
        session,
        EventType.ENDPOINT_DISABLED,
        tenant_id=endpoint.tenant_id,
        actor=actor,
        after={"endpoint": id_, "url": endpoint.url, "disabled_reason": reason},
        data={"endpoint_id": id_, "url": endpoint.url, "reason": reason},
    )


def ping(session: Session, endpoint: Endpoint, *, actor: str = OPERATOR) -> Delivery:
    """Queue a test event for this endpoint alone."""
    event = Event(
        tenant_id=endpoint.tenant_id,
        type=EventType.ENDPOINT_PING,
        actor=actor,
        after={"endpoint": str(endpoint.id), "url": endpoint.url},
        data={"endpoint_id": str(endpoint.id)},
    )
    delivery = Delivery(event=event, endpoint_id=endpoint.id)
    session.add(delivery)
    session.flush()
    return delivery


def note(
    session: Session,
    type_: EventType,
    endpoint: Endpoint,
    *,
    actor: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Write down what somebody did with an endpoint; which one is said after it, with its address."""
    named = {"endpoint": str(endpoint.id), "url": endpoint.url}
    after = {**named, **(after or {})}
    events.record(session, type_, tenant_id=endpoint.tenant_id, actor=actor, before=before, after=after)


def _check_types(event_types: list[str]) -> None:
    known = {event.value for event in OUTBOUND}
    for name in event_types:
        if name not in known:
            raise InvalidRequest(
                f"There is no event type {name!r}; use some of {', '.join(sorted(known))}, or none for all of them.",
                pointer="/event_types",
            )
