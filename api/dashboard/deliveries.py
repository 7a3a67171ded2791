"""`/dashboard/platforms/{id}/deliveries`: what was sent to a platform's endpoints, and what they answered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from api.auth import requires_role
from api.dashboard import filters
from api.dashboard.access import person
from api.dashboard.queue import id_in
from moderation import attempts, deliveries, endpoints, events, sights
from moderation.db import transaction
from moderation.errors import ConfigurationError
from moderation.tables import Delivery, DeliveryAttempt
from moderation.vocabulary import OUTBOUND, DeliveryStatus, EventType, Role

pages = Blueprint("deliveries", __name__)

PAGE = 50
# So near its time a delivery is followed; one that waits for hours would be asked for in vain.
FOLLOWED = timedelta(minutes=5)
TYPES = [type_ for type_ in EventType if type_ in OUTBOUND]


@pages.get("/dashboard/platforms/<uuid:tenant_id>/deliveries")
@requires_role(Role.ADMIN)
def page(tenant_id: UUID) -> str:
    """The log: newest first, by filter."""
    status = filters.word_in(request.args, "status", DeliveryStatus)
    type_ = filters.word_in(request.args, "type", EventType)
    endpoint_id = id_in(request.args, "to")
    since, until = filters.moment_in(request.args, "since"), filters.moment_in(request.args, "until")
    before = id_in(request.args, "before")
    with transaction() as session:
        own = endpoints.listed(session, tenant_id)
        found = deliveries.listed(
            session,
            tenant_id,
            before=before,
            limit=PAGE + 1,
            endpoint_id=endpoint_id,
            status=status,
            type_=type_,
            since=since,
            until=until,
        )
        shown = found[:PAGE]
        logs = deliveries.attempts_of(session, shown)
    return render_template(
        "deliveries/page.html",
        deliveries=shown,
        last={id_: log[-1] for id_, log in logs.items() if log},
        endpoints=own,
        statuses=list(DeliveryStatus),
        types=TYPES,
        status=status,
        type=type_,
        endpoint_id=endpoint_id,
        since=filters.field_value(since),
        until=filters.field_value(until),
        query=filters.as_query(status=status, type=type_, to=endpoint_id, since=since, until=until),
        first=before is None,
        following=shown[-1].id if len(found) > PAGE else None,
    )


@pages.get("/dashboard/platforms/<uuid:tenant_id>/deliveries/<uuid:delivery_id>")
@requires_role(Role.ADMIN)
def page_of(tenant_id: UUID, delivery_id: UUID) -> str:
    """One delivery: the request as it is sent, and what came of every attempt. While one is due, it is followed."""
    with transaction() as session:
        delivery = deliveries.delivery_of(session, tenant_id, delivery_id, lock=False)
        log = deliveries.attempts_of(session, [delivery])[delivery.id]
        endpoint, event = delivery.endpoint, delivery.event
        headers, body, unsent = _request(delivery, log)
        # It says all of the case: what the case page hides from this person would be told here.
        veiled = event.case_id is not None and sights.is_hidden(session, person(), event.case_id)
    return render_template(
        "deliveries/delivery.html",
        delivery=delivery,
        endpoint=endpoint,
        event=event,
        log=log,
        headers=headers,
        body=None if veiled else body,
        unsent=unsent,
        followed=_is_near(delivery),
    )


@pages.post("/dashboard/platforms/<uuid:tenant_id>/deliveries/<uuid:delivery_id>/replay")
@requires_role(Role.ADMIN)
def replay(tenant_id: UUID, delivery_id: UUID) -> Response:
    """Send it again, under the same id."""
    with transaction(wake=True) as session:
        delivery = deliveries.delivery_of(session, tenant_id, delivery_id)
        deliveries.replay(session, delivery, actor=person().actor)
    address = url_for("platforms.deliveries.page_of", tenant_id=tenant_id, delivery_id=delivery_id)
    return redirect(f"{address}?said=delivery_replayed", 303)


def _is_near(delivery: Delivery) -> bool:
    """Whether an attempt is about to be made, or just was due."""
    waits = delivery.status is DeliveryStatus.PENDING and delivery.endpoint.disabled_at is None
    return waits and abs(delivery.next_attempt_at - datetime.now(UTC)) < FOLLOWED


def _request(delivery: Delivery, log: list[DeliveryAttempt]) -> tuple[dict[str, str], str, str | None]:
    """Headers and body as of the last attempt, or as of now before the first; or why it cannot be sent."""
    at = log[-1].created_at if log else datetime.now(UTC)
    try:
        headers, body = attempts.request_of(delivery, at)
    except ConfigurationError as error:
        return {}, events.payload(delivery.event).decode(), error.message
    return headers, body.decode(), None
