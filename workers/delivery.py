"""Sends events to the platforms' endpoints: one attempt a task; when the next one is due stands in Postgres."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from uuid import UUID

from moderation import webhooks
from moderation.db import insistent, transaction
from moderation.settings import settings
from moderation.tables import Delivery
from moderation.webhooks import Outcome, Parcel
from workers.celery_app import DELIVER, app
from workers.departure import departure

log = logging.getLogger(__name__)

# The lease outlives the slowest attempt by this.
MARGIN = timedelta(seconds=15)


@app.task(name=DELIVER)
def deliver(delivery_id: str) -> None:
    """Send one delivery. No session is open while the endpoint is called."""
    lease = timedelta(seconds=settings().delivery_timeout_s) + MARGIN
    with transaction() as session:
        parcel = webhooks.take(session, UUID(delivery_id), lease)
    if parcel is None:
        return
    with departure.holding(partial(_give_back, parcel)):
        outcome = webhooks.attempt(parcel, settings())
        delivery = _settle(parcel, outcome)
    if delivery is not None and not outcome.succeeded:
        log.warning("delivery %s to %s: %s", delivery_id, parcel.url, outcome.error or f"status {outcome.status}")


@insistent
def _give_back(parcel: Parcel) -> None:
    with transaction() as session:
        webhooks.give_back(session, parcel)


@insistent
def _settle(parcel: Parcel, outcome: Outcome) -> Delivery | None:
    """Through a short outage of the database: forgotten, what was delivered would be sent again."""
    with transaction(wake=True) as session:
        return webhooks.settle(session, parcel, outcome)
