"""Endpoints for webhooks out, and the log of what they were sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from moderation import attempts, endpoints
from moderation.attempts import Outcome
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Delivery, Endpoint
from moderation.vocabulary import CaseStatus, DeliveryStatus
from tests.api.conftest import Client
from tests.api.test_submissions import use
from tests.factories import make_case, make_endpoint

URL = "https://example.com/hooks"


def create(client: Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/endpoints", json={"url": URL, **fields})
    assert answer.status_code == 201, answer.text
    endpoint: dict[str, Any] = answer.get_json()
    return endpoint


def attempt(client: Client, delivery_id: str, status: int) -> None:
    """One attempt, as a delivery worker writes it down."""
    with transaction() as session:
        parcel = attempts.take(session, UUID(delivery_id), timedelta(seconds=30))
        assert parcel is not None
        attempts.settle(session, parcel, Outcome(status, "said", None, 12))


def deliveries(client: Client, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/deliveries{query}").get_json()["deliveries"]
    return found


def test_a_secret_is_shown_once(client: Client) -> None:
    endpoint = create(client, event_types=["verdict.completed"])
    assert endpoint["secret"].startswith("whsec_")
    listed = client.get("/v1/endpoints").get_json()["endpoints"]
    one = client.get(f"/v1/endpoints/{endpoint['id']}").get_json()
    del endpoint["secret"]
    assert listed == [endpoint] and one == endpoint


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "http://127.0.0.1/hook"}, "/url"),
        ({"url": "not a url"}, "/url"),
        ({"url": "https://example.com/\x00"}, "/url"),
        ({"url": "https://example.com/\ud800"}, "/url"),
        ({}, "/url"),
        ({"url": URL, "event_types": ["verdict.maybe"]}, "/event_types/0"),
        ({"url": URL, "event_types": ["case.taken"]}, "/event_types"),
        ({"url": URL, "secret": "mine"}, "/secret"),
    ],
)
def test_a_wrong_endpoint_is_pointed_at(client: Client, body: dict[str, Any], pointer: str) -> None:
    answer = client.post("/v1/endpoints", json=body)
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, pointer), answer.text
    assert client.get("/v1/endpoints").get_json()["endpoints"] == []


def test_a_rotated_secret_leaves_the_one_before_valid(client: Client) -> None:
    endpoint = create(client)
    rotated = client.post(f"/v1/endpoints/{endpoint['id']}/rotate-secret").get_json()
    with transaction() as session:
        assert endpoints.secrets_of(session.get_one(Endpoint, endpoint["id"])) == [
            rotated["secret"],
            endpoint["secret"],
        ]


def test_a_disabled_endpoint_keeps_its_log_and_can_be_enabled(client: Client) -> None:
    endpoint, other = create(client), create(client)
    for _ in range(2):
        assert client.delete(f"/v1/endpoints/{endpoint['id']}").status_code == 204
    shown = client.get(f"/v1/endpoints/{endpoint['id']}").get_json()
    assert shown["disabled_at"] and shown["disabled_reason"]
    told = deliveries(client)
    assert [(one["type"], one["endpoint_id"]) for one in told] == [("endpoint.disabled", other["id"])]
    enabled = client.post(f"/v1/endpoints/{endpoint['id']}/enable").get_json()
    assert (enabled["disabled_at"], enabled["disabled_reason"]) == (None, None)


def test_a_ping_is_in_the_log_with_what_was_answered(client: Client) -> None:
    endpoint = create(client)
    assert client.post(f"/v1/endpoints/{endpoint['id']}/ping").status_code == 202
    (pending,) = deliveries(client)
    assert (pending["type"], pending["status"], pending["attempts"], pending["log"]) == (
        "endpoint.ping",
        "pending",
        0,
        [],
    )
    attempt(client, pending["id"], 500)
    (retrying,) = deliveries(client, "?status=pending")
    assert retrying["log"][0]["response_status"] == 500 and retrying["next_attempt_at"]


def test_one_delivery_can_be_sent_again_under_its_own_id(client: Client) -> None:
    endpoint = create(client)
    client.post(f"/v1/endpoints/{endpoint['id']}/ping")
    (first,) = deliveries(client)
    attempt(client, first["id"], 204)
    assert deliveries(client)[0]["status"] == "delivered"
    answer = client.post(f"/v1/deliveries/{first['id']}/replay")
    again = answer.get_json()
    assert answer.status_code == 202
    assert (again["status"], again["attempts"], again["webhook_id"]) == ("pending", 0, first["webhook_id"])
    assert [entry["response_status"] for entry in again["log"]] == [204]


def test_a_time_range_can_be_sent_again(client: Client) -> None:
    with transaction() as session:
        endpoint = make_endpoint(session, client.tenant)
        make_case(session, client.tenant, CaseStatus.DECIDED)
    now = datetime.now(UTC)
    with transaction() as session:
        for row in session.scalars(select(Delivery)):
            row.status = DeliveryStatus.DELIVERED
    path = f"/v1/endpoints/{endpoint.id}/replay"
    sent = len(deliveries(client))
    assert sent >= 2
    assert client.post(path, json={"since": (now - timedelta(hours=1)).isoformat()}).get_json() == {"queued": sent}
    assert {one["status"] for one in deliveries(client)} == {"pending"}
    later = {"since": (now + timedelta(hours=1)).isoformat(), "until": (now + timedelta(hours=2)).isoformat()}
    assert client.post(path, json=later).get_json() == {"queued": 0}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/since"),
        ({"since": "2026-01-01T00:00:00"}, "/since"),
        ({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "/until"),
    ],
)
def test_a_wrong_time_range_is_pointed_at(client: Client, body: dict[str, str], pointer: str) -> None:
    endpoint = create(client)
    answer = client.post(f"/v1/endpoints/{endpoint['id']}/replay", json=body)
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, pointer)


def test_the_log_has_pages_and_filters(client: Client) -> None:
    first, second = create(client), create(client)
    for _ in range(3):
        client.post(f"/v1/endpoints/{first['id']}/ping")
    client.post(f"/v1/endpoints/{second['id']}/ping")
    page = client.get(f"/v1/deliveries?limit=2&endpoint_id={first['id']}").get_json()
    rest = client.get(f"/v1/deliveries?limit=2&endpoint_id={first['id']}&cursor={page['next']}").get_json()
    ids = [one["id"] for one in page["deliveries"] + rest["deliveries"]]
    assert ids == sorted(set(ids), reverse=True) and len(ids) == 3
    assert rest["next"] is None
    assert deliveries(client, "?status=delivered") == []


def test_an_allowed_host_may_be_an_endpoint(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    use(client, monkeypatch, settings=settings().model_copy(update={"allowed_hosts": ("127.0.0.1:9999",)}))
    assert create(client, url="http://127.0.0.1:9999/hook")["url"] == "http://127.0.0.1:9999/hook"
