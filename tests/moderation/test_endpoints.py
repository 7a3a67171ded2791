"""Endpoints: their secrets, what they are sent, and what is written down of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select

from moderation import dispatch, endpoints
from moderation.db import transaction
from moderation.errors import InvalidRequest, NotFound
from moderation.settings import settings
from moderation.tables import Delivery, Endpoint, Tenant
from moderation.vocabulary import EventType
from tests.delivering import LEASE, pinged, reread, taken, told
from tests.factories import make_endpoint, make_tenant


def test_an_endpoint_is_made_with_a_secret_and_known_event_types_only(tenant: Tenant) -> None:
    with transaction() as session:
        made = endpoints.create(session, tenant.id, "https://example.com/hook", ["verdict.failed"], settings())
    (secret,) = endpoints.secrets_of(made)
    assert secret.startswith("whsec_") and secret not in str(made.secrets)
    for unknown in ("verdict.done", "case.taken", ""):
        with pytest.raises(InvalidRequest, match=r"verdict\.completed") as refused, transaction() as session:
            endpoints.create(session, tenant.id, "https://example.com/hook", [unknown], settings())
        assert refused.value.pointer == "/event_types"


def test_at_most_two_secrets_sign(endpoint: Endpoint) -> None:
    with transaction() as session:
        row = session.get_one(Endpoint, endpoint.id)
        first, second = endpoints.rotate_secret(session, row), endpoints.rotate_secret(session, row)
    assert endpoints.secrets_of(reread(endpoint)) == [second, first]


def test_of_two_rotations_at_once_both_secrets_sign(tenant: Tenant, endpoint: Endpoint) -> None:
    both_have_read = Barrier(2, timeout=60)

    def rotated(_: int) -> str:
        with transaction() as session:
            row = endpoints.endpoint_of(session, tenant.id, endpoint.id)
            both_have_read.wait()
            return endpoints.rotate_secret(session, row)

    with ThreadPoolExecutor(2) as pool:
        fresh = list(pool.map(rotated, range(2)))
    assert sorted(endpoints.secrets_of(reread(endpoint))) == sorted(fresh)


def test_an_unknown_event_type_changes_nothing(endpoint: Endpoint) -> None:
    with pytest.raises(InvalidRequest), transaction() as session:
        endpoints.change(session, session.get_one(Endpoint, endpoint.id), ["verdict.felt"], actor="user:ada")
    assert reread(endpoint).event_types == []


def test_an_endpoint_that_is_enabled_again_gets_what_was_pending(endpoint: Endpoint) -> None:
    waiting = pinged(endpoint)
    with transaction() as session:
        endpoints.disable(session, session.get_one(Endpoint, endpoint.id), "for the test")
    with transaction() as session:
        assert dispatch.offer_deliveries(session, per_endpoint=4, lease=LEASE) == []
        endpoints.enable(session, session.get_one(Endpoint, endpoint.id))
    with transaction() as session:
        assert dispatch.offer_deliveries(session, per_endpoint=4, lease=LEASE) == [waiting]


def test_a_ping_goes_to_its_endpoint_alone_whatever_it_subscribed_to(tenant: Tenant) -> None:
    with transaction() as session:
        picky = make_endpoint(session, tenant, event_types=["verdict.failed"])
        make_endpoint(session, tenant)
    delivery_id = pinged(picky)
    with transaction() as session:
        assert session.scalars(select(Delivery.id)).all() == [delivery_id]
    body = json.loads(taken(delivery_id).body)
    assert (body["type"], body["data"]) == ("endpoint.ping", {"endpoint_id": str(picky.id)})


def test_an_endpoints_life_is_written_down_without_its_secrets(tenant: Tenant) -> None:
    with transaction() as session:
        made = endpoints.create(session, tenant.id, "https://example.com/in", [], settings(), actor="user:ada")
        endpoints.change(session, made, [], actor="user:ada")
        endpoints.change(session, made, ["verdict.failed"], actor="user:ada")
        secrets = [*endpoints.secrets_of(made), endpoints.rotate_secret(session, made, actor="user:ada")]
        endpoints.disable(session, made, "Enough.", actor="user:ada")
        endpoints.enable(session, made, actor="user:ada")
    (changed,) = told(tenant.id, EventType.ENDPOINT_CHANGED)
    named = {"endpoint": str(made.id), "url": "https://example.com/in"}
    assert (changed.before, changed.after) == ({"event_types": []}, {**named, "event_types": ["verdict.failed"]})
    (enabled,) = told(tenant.id, EventType.ENDPOINT_ENABLED)
    assert (enabled.actor, enabled.before) == ("user:ada", {"disabled_reason": "Enough."})
    (disabled,) = told(tenant.id, EventType.ENDPOINT_DISABLED)
    assert disabled.after == {**named, "disabled_reason": "Enough."}
    for type_ in (EventType.ENDPOINT_CREATED, EventType.ENDPOINT_SECRET_ROTATED, EventType.ENDPOINT_DISABLED):
        (event,) = told(tenant.id, type_)
        assert event.actor == "user:ada"
        assert not [secret for secret in secrets if secret in f"{event.before} {event.after} {event.data}"]


def test_another_tenants_endpoints_do_not_exist(endpoint: Endpoint) -> None:
    with transaction() as session:
        other = make_tenant(session)
        with pytest.raises(NotFound):
            endpoints.endpoint_of(session, other.id, endpoint.id)
        assert endpoints.listed(session, other.id) == []
