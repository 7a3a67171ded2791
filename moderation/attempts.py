"""Attempts at a delivery: it is taken under a lease, signed, sent, and what came of it is written.

When the next one is due is the schedule of Standard Webhooks; an endpoint that is busy is left alone for a while, and
one that is gone, or failed for days, is disabled. Which deliveries are due is moderation/dispatch.py's.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.orm import Session

from moderation import endpoints, events, outbound, sealing, signing
from moderation.db import FRESH, new_id
from moderation.errors import ConfigurationError, InvalidRequest, TelltaleError
from moderation.settings import Settings
from moderation.tables import Delivery, DeliveryAttempt, Endpoint
from moderation.vocabulary import DeliveryStatus

log = logging.getLogger(__name__)
# The Standard Webhooks 1.0 retry schedule, from the first attempt on; each delay gets up to 10 % of jitter.
SCHEDULE = tuple(
    timedelta(seconds=seconds) for seconds in (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
DISABLE_AFTER = timedelta(days=5)
SLOW_DOWN = timedelta(minutes=1)
MAX_RETRY_AFTER = timedelta(hours=1)
# While a key of ours is missing no endpoint is to blame.
OURS_RETRY_AFTER = timedelta(minutes=5)
BUSY_STATUSES = frozenset({429, 502, 504})
GONE = 410
MAX_PAYLOAD_BYTES = 20_000


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt: an answer, or the reason there was none."""

    status: int | None
    excerpt: str | None
    error: str | None
    elapsed_ms: int
    retry_after: int | None = None
    # We could not sign it, for want of a key or a secret: the endpoint was never called.
    ours: bool = False

    @property
    def succeeded(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class Parcel:
    """One leased delivery, with all that is needed to send it without the database; the secrets are still sealed."""

    delivery_id: UUID
    fence: int
    event_id: UUID
    endpoint_id: UUID
    url: str
    secrets: tuple[str, ...]
    body: bytes
    attempt: int
    case_id: UUID | None
    # Of the request that began it all; None once its image was erased.
    request_id: str | None
    event_at: datetime


_TAKE = text(
    """
    UPDATE deliveries d SET
        lease_until = now() + :lease, offered_until = NULL, fence = d.fence + 1, attempts = d.attempts + 1
    FROM endpoints, events e
    WHERE d.id = :delivery AND d.status = 'pending' AND d.next_attempt_at <= now()
      AND (d.lease_until IS NULL OR d.lease_until <= now())
      AND endpoints.id = d.endpoint_id AND endpoints.disabled_at IS NULL AND e.id = d.event_id
    RETURNING d.id, d.fence, d.event_id, d.endpoint_id, endpoints.url, endpoints.secrets, d.attempts,
              e.type, e.created_at, e.data, e.case_id, e.request_id
    """
)


def take(session: Session | Connection, delivery_id: UUID, lease: timedelta) -> Parcel | None:
    """Lease a due delivery; None where it was sent, is being sent, or its endpoint is disabled. One statement."""
    taken = session.execute(_TAKE, {"delivery": delivery_id, "lease": lease}).one_or_none()
    if taken is None:
        return None
    return Parcel(
        taken.id,
        taken.fence,
        taken.event_id,
        taken.endpoint_id,
        taken.url,
        tuple(taken.secrets),
        events.payload(taken),
        taken.attempts,
        taken.case_id,
        taken.request_id,
        taken.created_at,
    )


def send(parcel: Parcel, settings: Settings) -> Outcome:
    """Sign and send one delivery. Whatever goes wrong is an outcome: an event that cannot be signed is not sent."""
    started = time.monotonic()
    try:
        _refuse_too_large(parcel)
        secrets = [sealing.unseal(stored, parcel.endpoint_id) for stored in parcel.secrets]
        headers = _headers(secrets, parcel.event_id, datetime.now(UTC), parcel.body, parcel.request_id)
        response = outbound.post(parcel.url, headers, parcel.body, settings)
    except ConfigurationError as error:
        log.error("delivery %s was not sent, and that is ours to mend: %s", parcel.delivery_id, error.message)
        reason = f"Not sent, and not held against the endpoint: {error.message}"
        return Outcome(None, None, reason, _ms_since(started), ours=True)
    except TelltaleError as error:
        return Outcome(None, None, error.message, _ms_since(started))
    except Exception as error:
        # A defect of ours. Unsettled, it would be tried again without end; its text is for us, its name for everybody.
        log.exception("delivery %s could not be attempted", parcel.delivery_id)
        return Outcome(None, None, type(error).__name__, _ms_since(started))
    return Outcome(response.status, response.body_excerpt, None, response.elapsed_ms, response.retry_after)


def _refuse_too_large(parcel: Parcel) -> None:
    """Not before the delivery is taken: refused here, it is a failed attempt that everybody can see."""
    if len(parcel.body) >= MAX_PAYLOAD_BYTES:
        size = len(parcel.body)
        raise InvalidRequest(f"Event {parcel.event_id} has {size} bytes, and receivers count on less than 20 kB.")


def _headers(
    secrets: Sequence[str], event_id: UUID, at: datetime, body: bytes, request_id: str | None
) -> dict[str, str]:
    """The request's id is for logs on both sides. It is not signed, and nothing may hang on it."""
    signed = signing.sign(secrets, str(event_id), at, body)
    about = {"x-request-id": request_id} if request_id else {}
    return {"content-type": "application/json", "user-agent": "Telltale-Webhooks/1", **about, **signed}


def request_of(delivery: Delivery, at: datetime) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a delivery as sent at this time, signed with the endpoint's present secrets.

    Raises ConfigurationError for what cannot be signed, and so is not sent.
    """
    event, secrets = delivery.event, endpoints.secrets_of(delivery.endpoint)
    body = events.payload(event)
    return _headers(secrets, event.id, at, body, event.request_id), body


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


@dataclass(frozen=True)
class Settled:
    """What was written of an attempt; `others_wait`: more may be due to this endpoint than was under way at once."""

    others_wait: bool


def settle(session: Session, parcel: Parcel, outcome: Outcome) -> Settled | None:
    """Write what came of an attempt and when the next one is due; None where the lease was lost meanwhile.

    Or given back, by this very settling: repeated, because nobody knew whether its commit stood, it changes nothing.
    What arrived is one statement, and needs no transaction around it.
    """
    return _delivered(session, parcel, outcome) if outcome.succeeded else _not_delivered(session, parcel, outcome)


# A pause runs its time: this attempt may have begun before the endpoint asked for it.
_DELIVERED = text(
    """
    WITH settled AS (
        UPDATE deliveries SET status = 'delivered', delivered_at = :at, lease_until = NULL
        WHERE id = :delivery AND fence = :fence AND lease_until IS NOT NULL
        RETURNING id, endpoint_id, attempts
    ), logged AS (
        INSERT INTO delivery_attempts (id, delivery_id, attempt, response_status, response_excerpt, elapsed_ms)
        SELECT :attempt, id, attempts, :status, :excerpt, :elapsed_ms FROM settled
    ), well AS (
        UPDATE endpoints SET failing_since = NULL FROM settled
        WHERE endpoints.id = settled.endpoint_id AND failing_since IS NOT NULL
    )
    SELECT EXISTS (
        SELECT FROM deliveries d
        WHERE d.endpoint_id = settled.endpoint_id AND d.status = 'pending' AND d.next_attempt_at <= now()
          AND (d.offered_until IS NULL OR d.offered_until <= now())
          AND (d.lease_until IS NULL OR d.lease_until <= now())
    ) AS others_wait FROM settled
    """
)


def _delivered(session: Session, parcel: Parcel, outcome: Outcome) -> Settled | None:
    values = {"delivery": parcel.delivery_id, "fence": parcel.fence, "at": datetime.now(UTC), "attempt": new_id()}
    said = {"status": outcome.status, "excerpt": outcome.excerpt, "elapsed_ms": outcome.elapsed_ms}
    others_wait = session.scalar(_DELIVERED, {**values, **said})
    return None if others_wait is None else Settled(others_wait)


def _not_delivered(session: Session, parcel: Parcel, outcome: Outcome) -> Settled | None:
    locked = select(Delivery).where(Delivery.id == parcel.delivery_id).with_for_update(of=Delivery)
    delivery = session.scalar(locked.execution_options(**FRESH))
    if delivery is None or delivery.fence != parcel.fence or delivery.lease_until is None:
        return None
    # Not against those who insert deliveries for it: they share its key, and two endpoints that are disabled at once
    # each tell the other.
    its_endpoint = select(Endpoint).where(Endpoint.id == delivery.endpoint_id)
    endpoint = session.scalars(its_endpoint.with_for_update(key_share=True)).one()
    delivery.lease_until = None
    if outcome.ours:
        _not_sent(session, delivery, outcome)
    else:
        _log(session, delivery, outcome)
        _failed(session, delivery, endpoint, outcome)
    return Settled(others_wait=True)


def give_back(session: Session, parcel: Parcel) -> None:
    """What an attempt comes to is not waited for: it does not count, and the next one is due at once."""
    taken = (Delivery.id == parcel.delivery_id, Delivery.fence == parcel.fence, Delivery.lease_until.is_not(None))
    values = {"lease_until": None, "attempts": Delivery.attempts - 1, "fence": Delivery.fence + 1}
    session.execute(update(Delivery).where(*taken).values(values))


def _log(session: Session, delivery: Delivery, outcome: Outcome) -> None:
    session.add(
        DeliveryAttempt(
            delivery_id=delivery.id,
            attempt=delivery.attempts,
            response_status=outcome.status,
            response_excerpt=outcome.excerpt,
            error=outcome.error,
            elapsed_ms=outcome.elapsed_ms,
        )
    )


def _not_sent(session: Session, delivery: Delivery, outcome: Outcome) -> None:
    """Through our own fault: it costs no attempt and is tried until it can be sent, and the log says it once."""
    last = select(DeliveryAttempt.error).where(DeliveryAttempt.delivery_id == delivery.id)
    if session.scalar(last.order_by(DeliveryAttempt.id.desc()).limit(1)) != outcome.error:
        _log(session, delivery, outcome)
    delivery.attempts -= 1
    delivery.next_attempt_at = func.now() + OURS_RETRY_AFTER


def _failed(session: Session, delivery: Delivery, endpoint: Endpoint, outcome: Outcome) -> None:
    now = session.scalars(select(func.now())).one()  # by the database's clock, which all of it is compared with
    endpoint.failing_since = endpoint.failing_since or now
    if outcome.status == GONE:
        delivery.status = DeliveryStatus.FAILED
        _disable_once(session, endpoint, "It answered 410 Gone.")
        return
    if now - endpoint.failing_since >= DISABLE_AFTER:
        _disable_once(session, endpoint, "Every attempt of the last 5 days failed.")
    if outcome.status in BUSY_STATUSES:
        endpoint.paused_until = now + _pause(outcome)
    if delivery.attempts >= len(SCHEDULE):
        delivery.status = DeliveryStatus.FAILED
        return
    wait = SCHEDULE[delivery.attempts] * random.uniform(1, 1.1)
    if outcome.retry_after is not None:
        wait = max(wait, min(timedelta(seconds=outcome.retry_after), MAX_RETRY_AFTER))
    delivery.next_attempt_at = now + wait


def _disable_once(session: Session, endpoint: Endpoint, reason: str) -> None:
    """Several attempts may be under way when the first of them finds the endpoint gone."""
    if endpoint.disabled_at is None:
        endpoints.disable(session, endpoint, reason)


def _pause(outcome: Outcome) -> timedelta:
    if outcome.retry_after is None:
        return SLOW_DOWN
    return min(timedelta(seconds=outcome.retry_after), MAX_RETRY_AFTER)
