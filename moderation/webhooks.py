"""Events and their way out: the audit trail, endpoints, and deliveries with the Standard Webhooks schedule.

An event and the delivery rows of whoever must be told are written in the caller's transaction. This module knows
nothing of cases; it is told what to record.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    TextClause,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.orm import Session, joinedload
from sqlalchemy.types import TypeEngine

from moderation import outbound, sealing, signing
from moderation.db import new_id
from moderation.errors import ConfigurationError, InvalidRequest, NotFound, TelltaleError
from moderation.settings import Settings
from moderation.tables import Delivery, DeliveryAttempt, Endpoint, Event
from moderation.vocabulary import OPERATOR, OUTBOUND, DeliveryStatus, EventType

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
# Whose schema events are of; /v1 of the API shows the same.
API_VERSION = "v1"


@dataclass(frozen=True)
class Rows:
    """Rows that are written in the same statement as an event: parts of its WITH, and their values."""

    parts: str
    values: Mapping[str, Any]
    # How JSON is stored and the like, where a value does not tell.
    types: Mapping[str, TypeEngine[Any]] = field(default_factory=dict)


def record(
    session: Session,
    type_: EventType,
    *,
    tenant_id: UUID | None,
    actor: str,
    case_id: UUID | None = None,
    sequence: int | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    request_id: str | None = None,
    along: Rows | None = None,
    flush: bool = True,
) -> UUID:
    """Write an event and, for each of the tenant's endpoints that wants it, a delivery; the event's id.

    In the caller's transaction, after what else is to be written there (unless `flush` says that it has time), and in
    one statement with the rows of `along`.
    """
    if flush:
        session.flush()
    event_id = new_id()
    values = {
        "event": event_id,
        "event_tenant": tenant_id,
        "event_case": case_id,
        "event_sequence": sequence,
        "event_type": type_.value,
        "event_actor": actor,
        "event_before": before,
        "event_after": after,
        "event_data": data,
        "event_request": request_id,
    }
    told = _NOBODY if type_ not in OUTBOUND else _EVERYBODY if tenant_id is None else _THE_TENANT
    types = tuple(along.types.items()) if along else ()
    statement = _recording(along.parts if along else "", told, types)
    session.connection().execute(statement, {**values, **(along.values if along else {})})
    return event_id


_EVENT = """event AS (
    INSERT INTO events (id, tenant_id, case_id, sequence, type, actor, before, after, data, request_id)
    VALUES (:event, :event_tenant, :event_case, :event_sequence, :event_type, :event_actor, :event_before, :event_after,
            :event_data, :event_request)
)"""
_EVENT_TYPES = {"event_before": Event.before.type, "event_after": Event.after.type, "event_data": Event.data.type}
_NOBODY = "SELECT"
_EVERYBODY = """INSERT INTO deliveries (id, event_id, endpoint_id)
SELECT uuidv7(), :event, id FROM endpoints
WHERE disabled_at IS NULL AND (cardinality(event_types) = 0 OR :event_type = ANY (event_types))"""
_THE_TENANT = f"{_EVERYBODY} AND tenant_id = :event_tenant"


@cache
def _recording(parts: str, told: str, types: tuple[tuple[str, TypeEngine[Any]], ...]) -> TextClause:
    rows = f"{parts}, {_EVENT}" if parts else _EVENT
    typed = {**_EVENT_TYPES, **dict(types)}
    return text(f"WITH {rows} {told}").bindparams(*(bindparam(name, type_=type_) for name, type_ in typed.items()))


def create_endpoint(
    session: Session, tenant_id: UUID, url: str, event_types: list[str], settings: Settings, *, actor: str = OPERATOR
) -> Endpoint:
    """Register where a tenant wants its events; the secret is made here, and `secrets_of` opens it to be shown once.

    Raises AddressRefused where the URL is not one we would call, InvalidRequest for an unknown event type.
    """
    outbound.check_url(url, settings)
    _check_types(event_types)
    endpoint = Endpoint(id=new_id(), tenant_id=tenant_id, url=url, event_types=event_types)
    endpoint.secrets = [sealing.seal(signing.new_secret(), endpoint.id)]
    session.add(endpoint)
    session.flush()
    _note(session, EventType.ENDPOINT_CREATED, endpoint, actor=actor, after={"event_types": event_types})
    return endpoint


def secrets_of(endpoint: Endpoint) -> list[str]:
    """What signs its deliveries, the newest first: to sign with, and to be shown just after it was made.

    Raises Unreadable for want of its key.
    """
    return [sealing.unseal(stored, endpoint.id) for stored in endpoint.secrets]


def change_endpoint(session: Session, endpoint: Endpoint, event_types: list[str], *, actor: str) -> None:
    """Send other types of events there from now on; none stands for all. Raises InvalidRequest for an unknown type."""
    _check_types(event_types)
    if event_types == endpoint.event_types:
        return
    before, endpoint.event_types = {"event_types": endpoint.event_types}, event_types
    after = {"event_types": event_types}
    _note(session, EventType.ENDPOINT_CHANGED, endpoint, actor=actor, before=before, after=after)


def _note(
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
    record(session, type_, tenant_id=endpoint.tenant_id, actor=actor, before=before, after=after)


def _check_types(event_types: list[str]) -> None:
    known = {event.value for event in OUTBOUND}
    for name in event_types:
        if name not in known:
            raise InvalidRequest(
                f"There is no event type {name!r}; use some of {', '.join(sorted(known))}, or none for all of them.",
                pointer="/event_types",
            )


def endpoint_of(session: Session, tenant_id: UUID, endpoint_id: UUID) -> Endpoint:
    """One of the tenant's endpoints. Raises NotFound."""
    endpoint = session.get(Endpoint, endpoint_id)
    if endpoint is None or endpoint.tenant_id != tenant_id:
        raise NotFound(f"There is no endpoint {endpoint_id}.")
    return endpoint


def endpoints_of(session: Session, tenant_id: UUID) -> list[Endpoint]:
    """All of the tenant's endpoints, oldest first."""
    return list(session.scalars(select(Endpoint).where(Endpoint.tenant_id == tenant_id).order_by(Endpoint.id)))


def rotate_secret(session: Session, endpoint: Endpoint, *, actor: str = OPERATOR) -> str:
    """Add a new secret in front; deliveries are signed with the newest two, so receivers can change over in peace."""
    fresh = signing.new_secret()
    # Anew and locked: of two rotations at once, the second keeps what the first made.
    session.refresh(endpoint, with_for_update={"key_share": True})
    endpoint.secrets = [sealing.seal(fresh, endpoint.id), *endpoint.secrets[:1]]
    _note(session, EventType.ENDPOINT_SECRET_ROTATED, endpoint, actor=actor)
    return fresh


def enable(session: Session, endpoint: Endpoint, *, actor: str = OPERATOR) -> None:
    """Start sending again; what is pending goes out at the next turn."""
    before = {"disabled_reason": endpoint.disabled_reason}
    endpoint.disabled_at = endpoint.disabled_reason = endpoint.failing_since = endpoint.paused_until = None
    _note(session, EventType.ENDPOINT_ENABLED, endpoint, actor=actor, before=before)


def disable(session: Session, endpoint: Endpoint, reason: str, *, actor: str = "delivery") -> None:
    """Stop sending to an endpoint, and tell the tenant's other endpoints. What is pending stays and can be replayed."""
    endpoint.disabled_at = datetime.now(UTC)
    endpoint.disabled_reason = reason
    session.flush()
    id_ = str(endpoint.id)
    record(
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


def delivery_of(session: Session, tenant_id: UUID, delivery_id: UUID, *, lock: bool = True) -> Delivery:
    """One of the tenant's deliveries. Raises NotFound."""
    query = select(Delivery).join(Endpoint).where(Delivery.id == delivery_id, Endpoint.tenant_id == tenant_id)
    delivery = session.scalar(query.with_for_update(of=Delivery) if lock else query)
    if delivery is None:
        raise NotFound(f"There is no delivery {delivery_id}.")
    return delivery


def deliveries_of(
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
    _note(session, EventType.DELIVERY_REPLAYED, delivery.endpoint, actor=actor, before=before, after=after)


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
        _note(session, EventType.DELIVERY_REPLAYED, endpoint, actor=actor, after=said)
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


def take(session: Session, delivery_id: UUID, lease: timedelta) -> Parcel | None:
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
        payload(taken),
        taken.attempts,
        taken.case_id,
        taken.request_id,
        taken.created_at,
    )


def attempt(parcel: Parcel, settings: Settings) -> Outcome:
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
    body = payload(delivery.event)
    return _headers(secrets_of(delivery.endpoint), delivery.event_id, at, body, delivery.event.request_id), body


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def payload(event: Event | Row[Any]) -> bytes:
    """The body that is signed and sent, under 20 kB for every event recorded here."""
    body = {
        "type": event.type,
        "api_version": API_VERSION,
        "timestamp": event.created_at.isoformat(),
        "data": event.data,
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _refuse_too_large(parcel: Parcel) -> None:
    """Not before the delivery is taken: refused here, it is a failed attempt that everybody can see."""
    if len(parcel.body) >= MAX_PAYLOAD_BYTES:
        size = len(parcel.body)
        raise InvalidRequest(f"Event {parcel.event_id} has {size} bytes, and receivers count on less than 20 kB.")


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
    # As it is now, also where the session had read it before.
    delivery = session.scalar(locked.execution_options(populate_existing=True))
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
        disable(session, endpoint, reason)


def _pause(outcome: Outcome) -> timedelta:
    if outcome.retry_after is None:
        return SLOW_DOWN
    return min(timedelta(seconds=outcome.retry_after), MAX_RETRY_AFTER)
