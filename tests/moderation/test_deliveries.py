"""Deliveries: the log, and what is sent again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select

from moderation import attempts, deliveries, dispatch, endpoints, events
from moderation.db import transaction
from moderation.errors import NotFound
from moderation.tables import Delivery, Endpoint, Event, Tenant
from moderation.vocabulary import DeliveryStatus, EventType
from tests.delivering import LEASE, answered, pinged, reread, settle, taken, told
from tests.factories import make_case, make_endpoint, make_tenant
from tests.reading import copy, reading_few


def test_deliveries_are_found_by_event_and_time(tenant: Tenant, endpoint: Endpoint) -> None:
    ping = pinged(endpoint)
    with transaction() as session:
        make_case(session, tenant)

        def ids(**wanted: object) -> list[UUID]:
            return [row.id for row in deliveries.listed(session, tenant.id, **wanted)]  # type: ignore[arg-type]

        assert len(ids()) == 2
        assert ids(type_=EventType.ENDPOINT_PING) == [ping]
        assert ids(until=datetime.now(UTC) - LEASE) == [] and len(ids(since=datetime.now(UTC) - LEASE)) == 2


def test_of_many_deliveries_only_those_of_the_page_are_read(tenant: Tenant, endpoint: Endpoint) -> None:
    with transaction() as session:
        other = make_endpoint(session, make_tenant(session))
        endpoints.ping(session, other)
        # Of many endpoints and events: among few, another way to the rows would look as good to the planner.
        ping = endpoints.ping(session, other)
        copy(session, "deliveries", ping.id, "event_id", "endpoint_id")
        copy(session, "events", ping.event_id)
        copy(session, "endpoints", other.id, "tenant_id")
        second = make_endpoint(session, tenant)
        pings = [endpoints.ping(session, to).id for to in (endpoint, second, endpoint, second)]
        for wanted in ({}, {"type_": EventType.ENDPOINT_PING}, {"status": DeliveryStatus.PENDING}):
            with reading_few(session, "deliveries"):
                found = deliveries.listed(session, tenant.id, limit=3, **wanted)  # type: ignore[arg-type]
            assert [delivery.id for delivery in found] == pings[:0:-1]
        with reading_few(session, "deliveries"):
            found = deliveries.listed(session, tenant.id, limit=3, endpoint_id=second.id)
        assert [delivery.id for delivery in found] == [pings[3], pings[1]]
        with reading_few(session, "deliveries"):
            assert len(deliveries.listed(session, other.tenant_id, limit=2)) == 2


def test_a_replay_starts_over_with_the_same_event(endpoint: Endpoint) -> None:
    first = taken(pinged(endpoint))
    settle(first, answered(200))
    with transaction() as session:
        deliveries.replay(session, session.get_one(Delivery, first.delivery_id))
    with transaction() as session:
        again = attempts.take(session, first.delivery_id, LEASE)
    assert again is not None
    assert (again.event_id, again.body) == (first.event_id, first.body)
    assert settle(again, answered(500)).attempts == 1


def test_a_replay_shuts_out_the_attempt_that_was_under_way(endpoint: Endpoint) -> None:
    old = taken(pinged(endpoint))
    with transaction() as session:
        deliveries.replay(session, session.get_one(Delivery, old.delivery_id))
        assert attempts.settle(session, old, answered(410)) is None
    assert reread(endpoint).disabled_at is None


def test_a_range_is_replayed_for_one_endpoint_from_since_until_just_before_until(
    tenant: Tenant, endpoint: Endpoint
) -> None:
    with transaction() as session:
        make_endpoint(session, tenant)
    for _ in range(4):
        with transaction() as session:
            make_case(session, tenant)
    with transaction() as session:
        query = select(Delivery).join(Event).where(Delivery.endpoint_id == endpoint.id).order_by(Event.created_at)
        mine = session.scalars(query).all()
        times = [delivery.event.created_at for delivery in mine]
    for delivery in mine:
        settle(taken(delivery.id), answered(200))
    with transaction() as session:
        assert deliveries.replay_range(session, session.get_one(Endpoint, endpoint.id), times[1], times[3]) == 2
    with transaction() as session:
        assert set(dispatch.offer_deliveries(session, per_endpoint=10, lease=LEASE)) >= {mine[1].id, mine[2].id}
        pending = session.scalars(query.where(Delivery.status == DeliveryStatus.PENDING)).all()
        assert [delivery.id for delivery in pending] == [mine[1].id, mine[2].id]


def test_a_range_is_counted_before_it_is_sent_and_written_down_once(tenant: Tenant, endpoint: Endpoint) -> None:
    for _ in range(3):
        pinged(endpoint)
    since, until = datetime.now(UTC) - timedelta(minutes=1), datetime.now(UTC) + timedelta(minutes=1)
    with transaction() as session:
        row = session.get_one(Endpoint, endpoint.id)
        assert deliveries.count_range(session, row, since, until) == 3
        assert deliveries.count_range(session, row, until, until + LEASE) == 0
        assert deliveries.replay_range(session, row, since, until, actor="user:ada") == 3
        assert deliveries.replay_range(session, row, until, until + LEASE, actor="user:ada") == 0
    (event,) = told(tenant.id, EventType.DELIVERY_REPLAYED)
    assert event.after is not None and (event.actor, event.after["deliveries"]) == ("user:ada", 3)


def test_events_that_are_everybodys_are_in_the_range_too(tenant: Tenant, endpoint: Endpoint) -> None:
    with transaction() as session:
        event_id = events.record(session, EventType.MODEL_PROMOTED, tenant_id=None, actor="operator", data={})
        row = session.get_one(Endpoint, endpoint.id)
        at = session.get_one(Event, event_id).created_at
        assert deliveries.count_range(session, row, at, at + LEASE) == 1


def test_another_tenants_deliveries_do_not_exist(tenant: Tenant, endpoint: Endpoint) -> None:
    delivery_id = pinged(endpoint)
    with transaction() as session:
        other = make_tenant(session)
        with pytest.raises(NotFound):
            deliveries.delivery_of(session, other.id, delivery_id)
        assert deliveries.listed(session, other.id) == []
        assert deliveries.delivery_of(session, tenant.id, delivery_id).id == delivery_id
