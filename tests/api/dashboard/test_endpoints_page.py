"""The endpoints' pages: made, changed, rotated, disabled, pinged, sent again."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select

from moderation import endpoints
from moderation.db import transaction
from moderation.tables import Delivery, Endpoint, Tenant
from moderation.vocabulary import DeliveryStatus
from tests.api.dashboard.conftest import Browser
from tests.platforms import Furnished

SECRET = re.compile(r'value="(whsec_[^"]+)"')
URL = "https://example.com/hooks"


def row(endpoint: Endpoint) -> Endpoint:
    with transaction() as session:
        return session.get_one(Endpoint, endpoint.id)


def deliveries() -> int:
    with transaction() as session:
        return session.scalar(select(func.count(Delivery.id))) or 0


def test_without_one_it_is_said_what_to_do(ada: Browser, tenant: Tenant) -> None:
    page = ada.get(f"/dashboard/platforms/{tenant.id}/endpoints").text
    assert "There is no endpoint yet" in page and "endpoints/new" in page


def test_a_new_ones_secret_is_shown_once(ada: Browser, tenant: Tenant) -> None:
    path = f"/dashboard/platforms/{tenant.id}/endpoints"
    answer = ada.post(path, {"url": f" {URL} ", "event_types": ["verdict.failed", "case.in_review"]})
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    (secret,) = SECRET.findall(answer.text)
    with transaction() as session:
        made = session.scalars(select(Endpoint)).one()
    assert (made.url, made.event_types) == (URL, ["verdict.failed", "case.in_review"])
    assert endpoints.secrets_of(made) == [secret]
    for shown in (path, f"{path}/{made.id}"):
        page = ada.get(shown)
        assert page.status_code == 200 and URL in page.text and secret not in page.text


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"url": "http://10.0.0.1/"}, "is not a public address"),
        ({"url": "ftp://example.com/"}, "must begin with http"),
        ({"url": ""}, "must begin with http"),
        ({"url": URL, "event_types": ["verdict.felt"]}, "There is no event type"),
    ],
)
def test_a_wrong_one_is_not_made_and_what_was_typed_stays(
    ada: Browser, tenant: Tenant, sent: dict[str, object], words: str
) -> None:
    answer = ada.post(f"/dashboard/platforms/{tenant.id}/endpoints", sent)
    assert answer.status_code == 400 and words in answer.text
    if sent["url"]:
        assert f'value="{sent["url"]}"' in answer.text
    with transaction() as session:
        assert session.scalar(select(func.count(Endpoint.id))) == 0


def test_the_list_says_how_each_is(ada: Browser, ours: Furnished) -> None:
    with transaction() as session:
        endpoint = session.get_one(Endpoint, ours.endpoint.id)
        endpoint.failing_since = datetime.now(UTC) - timedelta(hours=3)
        endpoint.paused_until = datetime.now(UTC) + timedelta(hours=1)
    page = ada.get(ours.path("/endpoints")).text
    assert "failing" in page and "3 hours ago" in page and "paused" in page
    page = ada.get(ours.path("/endpoints/{endpoint}")).text
    assert "Failing since" in page and "Paused until" in page


def test_other_events_from_now_on(ada: Browser, ours: Furnished) -> None:
    answer = ada.post(ours.path("/endpoints/{endpoint}"), {"event_types": ["verdict.failed"]})
    assert answer.location == ours.path("/endpoints/{endpoint}") + "?said=endpoint_changed"
    assert row(ours.endpoint).event_types == ["verdict.failed"]
    page = ada.get(answer.location).text
    assert re.search(r'value="verdict.failed" checked', page) and not re.search(r'value="case.in_review" checked', page)
    ada.post(ours.path("/endpoints/{endpoint}"))
    assert row(ours.endpoint).event_types == []


def test_a_rotated_secret_is_shown_once_and_the_one_before_signs_too(ada: Browser, ours: Furnished) -> None:
    answer = ada.post(ours.path("/endpoints/{endpoint}/secret"))
    (fresh,) = SECRET.findall(answer.text)
    (before,) = endpoints.secrets_of(ours.endpoint)
    assert endpoints.secrets_of(row(ours.endpoint)) == [fresh, before]
    assert before not in answer.text
    assert fresh not in ada.get(ours.path("/endpoints/{endpoint}")).text


def test_disabled_and_enabled(ada: Browser, ours: Furnished) -> None:
    for _ in range(2):
        assert ada.post(ours.path("/endpoints/{endpoint}/disable")).status_code == 303
    assert row(ours.endpoint).disabled_at is not None
    page = ada.get(ours.path("/endpoints/{endpoint}")).text
    assert "Disabled on its page." in page and "Send a ping" not in page
    assert ada.post(ours.path("/endpoints/{endpoint}/enable")).status_code == 303
    assert row(ours.endpoint).disabled_at is None


def test_a_ping_leads_to_its_delivery(ada: Browser, ours: Furnished) -> None:
    answer = ada.post(ours.path("/endpoints/{endpoint}/ping"))
    found = re.fullmatch(re.escape(ours.path("/deliveries/")) + "([0-9a-f-]{36})", answer.location)
    assert found
    with transaction() as session:
        delivery = session.get_one(Delivery, UUID(found[1]))
        assert (delivery.endpoint_id, delivery.status) == (ours.endpoint.id, DeliveryStatus.PENDING)
        assert ada.user is not None and delivery.event.actor == f"user:{ada.user.id}"


def test_a_range_is_counted_and_then_sent_again(ada: Browser, ours: Furnished) -> None:
    path = ours.path("/endpoints/{endpoint}/replay")
    since = f"{datetime.now(UTC) - timedelta(minutes=5):%Y-%m-%dT%H:%M}"
    page = ada.get(f"{path}?since={since}").text
    total = deliveries()
    assert f"<b>{total} deliveries</b>" in page
    until = re.search(r'name="until" value="([^"]+)"', page)
    with transaction() as session:
        assert session.get_one(Delivery, ours.delivery.id).status is DeliveryStatus.DELIVERED
    answer = ada.post(path, {"since": since, "until": until[1] if until else ""})
    assert answer.location == ours.path("/deliveries") + f"?to={ours.endpoint.id}&said=deliveries_replayed"
    with transaction() as session:
        assert session.get_one(Delivery, ours.delivery.id).status is DeliveryStatus.PENDING
    assert "Nothing was due in that time" in ada.get(f"{path}?since=2020-01-01&until=2020-01-02").text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "Say from when on"),
        ("?since=yesterday", "is no time"),
        ("?since=0000-00-00", "is no time"),
        ("?since=2026-02-02&until=2026-02-01", "lies after its beginning"),
        ("?since=9999-12-31T23:59-14:00", "is no time"),
    ],
)
def test_a_range_that_is_none_is_said(ada: Browser, ours: Furnished, query: str, words: str) -> None:
    answer = ada.get(ours.path("/endpoints/{endpoint}/replay") + query)
    assert answer.status_code == 400 and words in answer.text
    assert ada.post(ours.path("/endpoints/{endpoint}/replay") + query).status_code == 400
