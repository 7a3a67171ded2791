"""Attempts: schedule, pauses, ends, and what a real receiver with the official package verifies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self
from uuid import UUID

import pytest
import standardwebhooks
from sqlalchemy import select, text

from moderation import attempts, deliveries, dispatch, endpoints, events
from moderation.attempts import SCHEDULE
from moderation.db import transaction
from moderation.errors import AddressRefused
from moderation.settings import settings
from moderation.tables import Delivery, DeliveryAttempt, Endpoint, Event, Tenant
from moderation.vocabulary import CaseStatus, DeliveryStatus, EventType
from tests import factories
from tests.delivering import LEASE, answered, pause_of, pinged, receiver, reread, sending, settle, taken, wait_of
from tests.factories import make_case, make_endpoint, make_tenant
from tests.moderation.test_outbound import serving
from tests.moderation.test_sealing import key, with_keys

__all__ = ["with_keys"]


def stored(delivery_id: UUID) -> Delivery:
    with transaction() as session:
        return session.get_one(Delivery, delivery_id)


def age_failure(endpoint: Endpoint, age: timedelta) -> None:
    with transaction() as session:
        session.get_one(Endpoint, endpoint.id).failing_since = datetime.now(UTC) - age


# --- The schedule ---


def test_the_schedule_is_that_of_standard_webhooks_with_up_to_ten_percent_of_jitter(endpoint: Endpoint) -> None:
    minute, hour = 60, 3600
    delays = [5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
    delivery_id = pinged(endpoint)
    for number, delay in enumerate(delays, start=1):
        delivery = settle(taken(delivery_id), answered(500))
        assert (delivery.attempts, delivery.status) == (number, DeliveryStatus.PENDING)
        assert delay <= wait_of(delivery) <= delay * 1.1
    last = settle(taken(delivery_id), answered(500))
    assert (last.attempts, last.status) == (10, DeliveryStatus.FAILED)
    with transaction() as session:
        log = session.scalars(select(DeliveryAttempt.attempt).order_by(DeliveryAttempt.id)).all()
    assert list(log) == list(range(1, 11))


def test_jitter_spreads_what_failed_together(endpoint: Endpoint) -> None:
    waits = []
    for _ in range(12):
        delivery_id = pinged(endpoint)
        settle(taken(delivery_id), answered(503))
        waits.append(wait_of(settle(taken(delivery_id), answered(503))))
    assert all(300 <= wait <= 330 for wait in waits)
    assert max(waits) - min(waits) > 3


def test_the_first_attempt_is_due_at_once(endpoint: Endpoint) -> None:
    delivery_id = pinged(endpoint)
    with transaction() as session:
        assert dispatch.offer_deliveries(session, per_endpoint=4, lease=LEASE) == [delivery_id]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_only_2xx_is_success(endpoint: Endpoint, status: int) -> None:
    delivery = settle(taken(pinged(endpoint)), answered(status))
    assert delivery.status is DeliveryStatus.DELIVERED and delivery.delivered_at is not None


@pytest.mark.parametrize("status", [None, 100, 199, 300, 301, 302, 304, 400, 401, 404, 500])
def test_everything_else_is_tried_again(endpoint: Endpoint, status: int | None) -> None:
    delivery = settle(taken(pinged(endpoint)), answered(status))
    assert (delivery.status, delivery.delivered_at) == (DeliveryStatus.PENDING, None)
    assert reread(endpoint).failing_since is not None
    assert reread(endpoint).paused_until is None


# --- Leases ---


def test_a_delivery_is_taken_once_and_not_before_its_time(endpoint: Endpoint) -> None:
    delivery_id = pinged(endpoint)
    parcel = taken(delivery_id)
    with transaction() as session:
        assert attempts.take(session, delivery_id, LEASE) is None
    settle(parcel, answered(500))
    with transaction() as session:
        assert attempts.take(session, delivery_id, LEASE) is None
    settle(taken(delivery_id), answered(200))
    with transaction() as session:
        session.get_one(Delivery, delivery_id).next_attempt_at = datetime(2020, 1, 1, tzinfo=UTC)
        session.flush()
        assert attempts.take(session, delivery_id, LEASE) is None, "a delivered event stays delivered"


def test_a_late_sender_writes_nothing(endpoint: Endpoint) -> None:
    delivery_id = pinged(endpoint)
    late = taken(delivery_id, lease=timedelta(seconds=-1))
    newer = taken(delivery_id)
    with transaction() as session:
        assert attempts.settle(session, late, answered(410)) is None
    assert reread(endpoint).disabled_at is None
    assert settle(newer, answered(200)).status is DeliveryStatus.DELIVERED
    with transaction() as session:
        assert session.scalars(select(DeliveryAttempt.attempt)).all() == [2]


def test_an_outcome_that_is_written_once_more_changes_nothing(endpoint: Endpoint) -> None:
    """The connection was lost with the commit's answer, and the write is insisted on."""
    parcel = taken(pinged(endpoint))
    first = settle(parcel, answered(500))
    with transaction() as session:
        assert attempts.settle(session, parcel, answered(500)) is None
        assert session.get_one(Delivery, parcel.delivery_id).next_attempt_at == first.next_attempt_at
        assert session.scalars(select(DeliveryAttempt.attempt)).all() == [1]


def test_a_sender_that_dies_on_the_last_attempt_leaves_no_delivery_behind(endpoint: Endpoint) -> None:
    delivery_id = pinged(endpoint)
    for _ in SCHEDULE:
        taken(delivery_id, lease=timedelta(seconds=-1))
    delivery = settle(taken(delivery_id), answered(500))
    assert (delivery.attempts, delivery.status) == (len(SCHEDULE) + 1, DeliveryStatus.FAILED)


# --- Endpoints that are busy, gone, or broken for days ---


@pytest.mark.parametrize("status", [429, 502, 504])
def test_a_busy_endpoint_is_left_alone_for_a_while(endpoint: Endpoint, status: int) -> None:
    delivery_id = pinged(endpoint)
    pinged(endpoint)
    settle(taken(delivery_id), answered(status))
    assert pause_of(endpoint) == 60
    with transaction() as session:
        assert dispatch.offer_deliveries(session, per_endpoint=4, lease=LEASE) == []


class _HoursAhead(datetime):
    """The clock of a machine that nobody has set right."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(hours=3)


def test_a_machine_whose_clock_is_wrong_keeps_to_the_schedule(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = taken(pinged(endpoint))
    with monkeypatch.context() as wrong:
        wrong.setattr(attempts, "datetime", _HoursAhead)
        delivery = settle(parcel, answered(429, 60))
    assert wait_of(delivery) == pause_of(endpoint) == 60


@pytest.mark.parametrize(("retry_after", "pause"), [(1, 1), (120, 120), (10**9, 3600)])
def test_retry_after_is_honoured_up_to_an_hour(endpoint: Endpoint, retry_after: int, pause: int) -> None:
    delivery = settle(taken(pinged(endpoint)), answered(429, retry_after))
    assert pause_of(endpoint) == pause
    assert max(pause, 5) <= wait_of(delivery) <= max(pause, 5.5)
    other = settle(taken(pinged(endpoint)), answered(503, retry_after))
    assert max(pause, 5) <= wait_of(other) <= max(pause, 5.5), (
        "a Retry-After counts for the delivery, whatever the status"
    )


def test_a_success_that_was_under_way_does_not_end_the_pause(endpoint: Endpoint) -> None:
    first, second = taken(pinged(endpoint)), taken(pinged(endpoint))
    settle(first, answered(429, 600))
    settle(second, answered(200))
    now = reread(endpoint)
    assert now.paused_until is not None and now.paused_until > datetime.now(UTC) + timedelta(minutes=9)
    assert now.failing_since is None


def test_gone_disables_at_once_and_tells_the_tenants_others(tenant: Tenant, endpoint: Endpoint) -> None:
    with transaction() as session:
        other, stranger = make_endpoint(session, tenant), make_endpoint(session, make_tenant(session))
    first, second = taken(pinged(endpoint)), taken(pinged(endpoint))
    waiting = pinged(endpoint)
    assert settle(first, answered(410)).status is DeliveryStatus.FAILED
    settle(second, answered(410))
    now = reread(endpoint)
    assert now.disabled_at is not None and now.disabled_reason == "It answered 410 Gone."
    with transaction() as session:
        told = session.scalars(select(Delivery).join(Event).where(Event.type == EventType.ENDPOINT_DISABLED)).all()
        assert [delivery.endpoint_id for delivery in told] == [other.id], "once, and to nobody else"
        assert stranger.id != other.id
        event = told[0].event
        assert event.data == {"endpoint_id": str(endpoint.id), "url": endpoint.url, "reason": now.disabled_reason}
        assert attempts.take(session, waiting, LEASE) is None, "what is pending waits"


def test_two_endpoints_disabled_at_once_tell_each_other(tenant: Tenant) -> None:
    """Each settling holds its own endpoint while it inserts a delivery for the other."""
    with transaction() as session:
        one, other = make_endpoint(session, tenant), make_endpoint(session, tenant)
    parcels = [taken(pinged(one)), taken(pinged(other))]
    with transaction() as first, transaction() as second:
        for session, parcel in zip((first, second), parcels, strict=True):
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            attempts.settle(session, parcel, answered(410))
            session.flush()
    with transaction() as session:
        query = select(Delivery.endpoint_id).join(Event).where(Event.type == EventType.ENDPOINT_DISABLED)
        assert set(session.scalars(query)) == {one.id, other.id}


def test_five_days_of_nothing_but_failure_disable(endpoint: Endpoint) -> None:
    settle(taken(pinged(endpoint)), answered(500))
    age_failure(endpoint, timedelta(days=5) - timedelta(hours=1))
    settle(taken(pinged(endpoint)), answered(None))
    assert reread(endpoint).disabled_at is None
    age_failure(endpoint, timedelta(days=5))
    settle(taken(pinged(endpoint)), answered(None))
    assert "5 days" in (reread(endpoint).disabled_reason or "")


def test_one_success_starts_the_five_days_anew(endpoint: Endpoint) -> None:
    age_failure(endpoint, timedelta(days=4))
    settle(taken(pinged(endpoint)), answered(200))
    assert reread(endpoint).failing_since is None
    settle(taken(pinged(endpoint)), answered(500))
    failing_since = reread(endpoint).failing_since
    assert failing_since is not None and datetime.now(UTC) - failing_since < timedelta(days=1)


# --- Real sending ---


def test_the_official_package_verifies_what_is_sent_also_while_a_secret_rotates(tenant: Tenant) -> None:
    with serving(receiver(204)) as server:
        with transaction() as session:
            factories.make_version(session)
            endpoint = make_endpoint(session, tenant, server.url("/hook"))
            old = endpoints.secrets_of(endpoint)[0]
            fresh = endpoints.rotate_secret(session, endpoint)
            case = make_case(session, tenant, CaseStatus.DECIDED, external_id="post-9", details={"ü": "\U0001f9ff"})
        with transaction() as session:
            due = dispatch.offer_deliveries(session, per_endpoint=10, lease=LEASE)
        for delivery_id in due:
            with transaction() as session:
                parcel = attempts.take(session, delivery_id, LEASE)
            assert parcel is not None
            outcome = attempts.send(parcel, sending(server.port))
            assert outcome.succeeded, outcome
            settle(parcel, outcome)
    assert len(server.seen) == 3
    events = []
    for method, path, headers, body in server.seen:
        assert (method, path, headers["content-type"]) == ("POST", "/hook", "application/json")
        assert UUID(headers["webhook-id"]).version == 7
        for secret in (old, fresh):
            events.append(standardwebhooks.Webhook(secret).verify(body, headers))
    in_order = sorted(events[::2], key=lambda event: event["data"]["sequence"])
    assert [event["type"] for event in in_order] == ["submission.accepted", "verdict.completed", "decision.created"]
    assert in_order[-1]["data"]["id"] == str(case.id)
    assert in_order[-1]["data"]["metadata"] == {"ü": "\U0001f9ff"}
    assert datetime.fromisoformat(in_order[0]["timestamp"]).tzinfo is not None


def test_an_answer_is_kept_in_the_log(tenant: Tenant) -> None:
    with serving(receiver(429, {"Retry-After": "77"})) as server:
        with transaction() as session:
            endpoint = make_endpoint(session, tenant, server.url())
        parcel = taken(pinged(endpoint))
        outcome = attempts.send(parcel, sending(server.port))
    assert (outcome.status, outcome.retry_after) == (429, 77)
    settle(parcel, outcome)
    with transaction() as session:
        logged = session.scalars(select(DeliveryAttempt)).one()
    assert (logged.response_status, logged.response_excerpt, logged.error) == (429, "got it", None)


def test_redirects_are_not_followed(tenant: Tenant) -> None:
    with serving(receiver(200)) as inner, serving(receiver(307, {"Location": inner.url()})) as outer:
        with transaction() as session:
            endpoint = make_endpoint(session, tenant, outer.url())
        outcome = attempts.send(taken(pinged(endpoint)), sending(inner.port, outer.port))
    assert (outcome.status, outcome.succeeded, inner.seen) == (307, False, [])


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/hook", "http://169.254.169.254/latest", "ftp://example.com/"])
def test_an_address_that_is_not_public_is_never_called(tenant: Tenant, url: str) -> None:
    with pytest.raises(AddressRefused), transaction() as session:
        endpoints.create(session, tenant.id, url, [], settings())
    with transaction() as session:
        endpoint = make_endpoint(session, tenant, url)
    outcome = attempts.send(taken(pinged(endpoint)), settings())
    assert outcome.status is None and outcome.error is not None and not outcome.succeeded


def test_an_endpoint_that_hangs_costs_its_timeout_and_no_more(tenant: Tenant) -> None:
    released = threading.Event()
    with serving(lambda request: released.wait(120)) as server:
        with transaction() as session:
            endpoint = make_endpoint(session, tenant, server.url())
        started = time.monotonic()
        outcome = attempts.send(taken(pinged(endpoint)), sending(server.port, timeout_s=0.5))
        took_s = time.monotonic() - started
        released.set()
    assert took_s < 100
    assert outcome.status is None and outcome.error is not None


@pytest.mark.parametrize("secrets", [[], ["whsec_"], ["whsec_not base64"], ["nonsense!"]])
def test_an_event_that_cannot_be_signed_is_not_sent_and_everybody_can_see_it(
    tenant: Tenant, secrets: list[str]
) -> None:
    with serving(receiver(200)) as server:
        with transaction() as session:
            endpoint = make_endpoint(session, tenant, server.url(), secrets=secrets)
        parcel = taken(pinged(endpoint))
        delivery = settle(parcel, attempts.send(parcel, sending(server.port)))
    assert server.seen == []
    assert delivery.status is DeliveryStatus.PENDING
    with transaction() as session:
        logged = session.scalars(select(DeliveryAttempt)).one()
    assert logged.response_status is None and logged.error


def test_a_key_that_we_lack_is_no_failure_of_the_endpoint(
    tenant: Tenant, with_keys: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(receiver(204)) as server:
        with_keys(key(1))
        with transaction() as session:
            endpoint = make_endpoint(session, tenant, server.url())
        delivery_id = pinged(endpoint)
        age_failure(endpoint, timedelta(days=6))
        with_keys(key(2))
        waits = []
        for _ in range(2):
            parcel = taken(delivery_id)
            waits.append(wait_of(settle(parcel, attempts.send(parcel, sending(server.port)))))
        waiting = stored(delivery_id)
        assert (waiting.status, waiting.attempts, waiting.lease_until) == (DeliveryStatus.PENDING, 0, None)
        assert waits[0] == 300 < waits[1], "the second is not in the log"
        assert reread(endpoint).disabled_at is None and server.seen == []
        with transaction() as session:
            said = session.scalars(select(DeliveryAttempt.error)).one()
        assert (
            said and said.startswith("Not sent, and not held against the endpoint") and "TELLTALE_SECRET_KEYS" in said
        )
        assert [record.levelname for record in caplog.records if str(delivery_id) in record.getMessage()][:1] == [
            "ERROR"
        ]
        with_keys(f"{key(2)},{key(1)}")
        parcel = taken(delivery_id)
        assert settle(parcel, attempts.send(parcel, sending(server.port))).status is DeliveryStatus.DELIVERED


def test_an_event_that_is_too_large_is_not_sent_and_everybody_can_see_it(tenant: Tenant) -> None:
    with serving(receiver(200)) as server:
        with transaction() as session:
            make_endpoint(session, tenant, server.url())
            events.record(
                session, EventType.CASE_IN_REVIEW, tenant_id=tenant.id, actor="test", data={"text": "x" * 20_000}
            )
            delivery_id = session.scalars(select(Delivery.id)).one()
        parcel = taken(delivery_id)
        settle(parcel, attempts.send(parcel, sending(server.port)))
    assert server.seen == []
    with transaction() as session:
        assert "20 kB" in (session.scalars(select(DeliveryAttempt.error)).one() or "")


def test_the_request_that_is_shown_is_the_one_that_is_sent(tenant: Tenant) -> None:
    with serving(receiver(204)) as server:
        with transaction() as session:
            made = make_endpoint(session, tenant, server.url("/hook"))
        parcel = taken(pinged(made))
        assert attempts.send(parcel, sending(server.port)).succeeded
    _, _, sent, body = server.seen[0]
    with transaction() as session:
        delivery = deliveries.delivery_of(session, tenant.id, parcel.delivery_id, lock=False)
        at = datetime.fromtimestamp(int(sent["webhook-timestamp"]), UTC)
        headers, shown = attempts.request_of(delivery, at)
    assert shown == body
    assert {name: sent[name] for name in headers} == headers
