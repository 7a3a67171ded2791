"""`/v1/deliveries`: what was sent to endpoints, what they answered, and sending one again."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, Shown
from api.paging import Page
from moderation import deliveries
from moderation.db import transaction
from moderation.tables import Delivery, DeliveryAttempt
from moderation.vocabulary import DeliveryStatus, EventType, Scope

api = APIBlueprint("deliveries", __name__, abp_tags=[Tag(name="Webhooks out")], abp_security=SECURITY)


class DeliveryFilter(Page):
    """Which deliveries, and which page of them."""

    endpoint_id: UUID | None = Field(default=None, description="of this endpoint alone")
    status: DeliveryStatus | None = Field(default=None, description="as it is now")


class DeliveryPath(BaseModel):
    """Where a delivery is named in the path."""

    delivery_id: UUID = Field(description="`id` in the log, not the `webhook-id`")


class AttemptShown(Shown):
    """One attempt: what the endpoint answered, or why it could not be reached."""

    attempt: int = Field(description="counted from 1")
    created_at: datetime = Field(description="when it was made")
    response_status: int | None = Field(description="the HTTP status of the answer, where there was one")
    response_excerpt: str | None = Field(description="the beginning of the answer's body")
    error: str | None = Field(description="why there was no answer")
    elapsed_ms: int = Field(description="how long it took")


class DeliveryShown(Shown):
    """One event on its way to one endpoint."""

    id: UUID
    webhook_id: UUID = Field(description="what the endpoint sees as `webhook-id`; the same at every attempt")
    type: EventType
    case_id: UUID | None
    endpoint_id: UUID
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime | None = Field(description="while it is pending")
    delivered_at: datetime | None
    created_at: datetime
    log: list[AttemptShown] = Field(description="oldest first, also of before a replay")


class DeliveriesShown(Shown):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryShown]
    next: str | None = Field(description="the `cursor` of the next page; None on the last")


@api.get(
    "/v1/deliveries",
    operation_id="listDeliveries",
    summary="List deliveries",
    responses={200: DeliveriesShown} | problems.declared(401, 403),
)
@requires(Scope.WEBHOOKS_MANAGE)
def list_deliveries(query: DeliveryFilter) -> Answer:
    """With the log of every attempt."""
    with transaction() as session:
        found = deliveries.listed(
            session,
            caller().tenant_id,
            before=query.before,
            limit=query.limit + 1,
            endpoint_id=query.endpoint_id,
            status=query.status,
        )
        page, following = query.cut(found)
        log = deliveries.attempts_of(session, page)
        return {"deliveries": [_shown(delivery, log[delivery.id]) for delivery in page], "next": following}


@api.post(
    "/v1/deliveries/<uuid:delivery_id>/replay",
    operation_id="replayDelivery",
    summary="Send one delivery again",
    responses={202: DeliveryShown} | problems.declared(401, 403, 404),
)
@requires(Scope.WEBHOOKS_MANAGE)
def replay_delivery(path: DeliveryPath) -> Answer:
    """Whatever became of it, from the start of the schedule, under the same `webhook-id`."""
    with transaction(wake=True) as session:
        who = caller()
        delivery = deliveries.delivery_of(session, who.tenant_id, path.delivery_id)
        deliveries.replay(session, delivery, actor=who.actor)
        return _shown(delivery, deliveries.attempts_of(session, [delivery])[delivery.id]), HTTPStatus.ACCEPTED


def _shown(delivery: Delivery, log: list[DeliveryAttempt]) -> dict[str, Any]:
    pending = delivery.status is DeliveryStatus.PENDING
    shown = DeliveryShown(
        id=delivery.id,
        webhook_id=delivery.event_id,
        type=delivery.event.type,
        case_id=delivery.event.case_id,
        endpoint_id=delivery.endpoint_id,
        status=delivery.status,
        attempts=delivery.attempts,
        next_attempt_at=delivery.next_attempt_at if pending else None,
        delivered_at=delivery.delivered_at,
        created_at=delivery.created_at,
        log=[AttemptShown.model_validate(attempt) for attempt in log],
    )
    return shown.model_dump(mode="json")
