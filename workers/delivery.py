"""Sends events to the platforms' endpoints: one attempt a task; when the next one is due stands in Postgres."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from moderation import attempts, logs
from moderation.attempts import Outcome, Parcel, Settled
from moderation.db import autonomous, glance, insistent, transaction, wake
from moderation.metrics import DELIVERY_ATTEMPTS, DELIVERY_LAG_SECONDS
from moderation.settings import settings
from workers.celery_app import DELIVER, app
from workers.departure import departure

log = logging.getLogger(__name__)

# The lease outlives the slowest attempt by this.
MARGIN = timedelta(seconds=15)


@app.task(name=DELIVER)
def deliver(delivery_id: str) -> None:
    """Send one delivery. No session is open while the endpoint is called."""
    lease = timedelta(seconds=settings().delivery_timeout_s) + MARGIN
    with autonomous() as connection:
        parcel = attempts.take(connection, UUID(delivery_id), lease)
    if parcel is None:
        return
    logs.add(
        request_id=parcel.request_id,
        case_id=parcel.case_id,
        delivery_id=parcel.delivery_id,
        endpoint_id=parcel.endpoint_id,
        attempt=parcel.attempt,
    )
    with departure.holding(partial(_give_back, parcel)):
        outcome = attempts.send(parcel, settings())
        settled = _settle(parcel, outcome)
    _count(parcel, outcome)
    logs.add(status=outcome.status)
    if settled is not None and settled.others_wait:
        wake()
    if settled is not None and not outcome.succeeded:
        # Its address may hold a secret of the platform's: where it went, the endpoint's row says.
        log.warning("not delivered: %s", outcome.error or f"status {outcome.status}")


def _count(parcel: Parcel, outcome: Outcome) -> None:
    DELIVERY_ATTEMPTS.labels(_word(outcome)).inc()
    if outcome.succeeded:
        DELIVERY_LAG_SECONDS.observe(max(0.0, (datetime.now(UTC) - parcel.event_at).total_seconds()))


def _word(outcome: Outcome) -> str:
    if outcome.ours:
        return "not_sent"
    if outcome.status is None:
        return "unreachable"
    return "delivered" if outcome.succeeded else "refused"


@insistent
def _give_back(parcel: Parcel) -> None:
    with transaction() as session:
        attempts.give_back(session, parcel)


@insistent
def _settle(parcel: Parcel, outcome: Outcome) -> Settled | None:
    """Through a short outage of the database: forgotten, what was delivered would be sent again."""
    with glance() if outcome.succeeded else transaction() as session:
        return attempts.settle(session, parcel, outcome)
