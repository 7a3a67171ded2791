"""The delivery log: filters, pages, one delivery with its request and attempts."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from moderation import deliveries, endpoints, signing
from moderation.attempts import Outcome
from moderation.db import new_id, transaction
from moderation.tables import Delivery, Endpoint, Tenant
from moderation.vocabulary import DeliveryStatus
from tests.api.dashboard.conftest import Browser
from tests.factories import make_case, make_endpoint
from tests.platforms import Furnished, attempt

LINK = re.compile(r'href="[^"]*/deliveries/([0-9a-f-]{36})"')
BLOCK = re.compile(r'<pre class="code block" tabindex="0" aria-label="(\w+)"[^>]*>(.*?)</pre>', re.DOTALL)


def shown(ada: Browser, ours: Furnished, query: str = "") -> list[str]:
    answer = ada.get(ours.path("/deliveries") + query)
    assert answer.status_code == 200, answer.text
    return LINK.findall(answer.text)


def row(delivery_id: UUID) -> Delivery:
    with transaction() as session:
        return session.get_one(Delivery, delivery_id)


def test_filters(ada: Browser, ours: Furnished) -> None:
    with transaction() as session:
        other = make_endpoint(session, ours.tenant, "https://other.example/in")
        make_case(session, ours.tenant)
        to_other = deliveries.listed(session, ours.tenant.id, endpoint_id=other.id)
        attempt(session, to_other[0].id, Outcome(410, "", None, 3))
    assert len(shown(ada, ours)) == 6, "a ping, three of cases, one of them twice, and that an endpoint was disabled"
    assert shown(ada, ours, "?status=delivered") == [str(ours.delivery.id)]
    assert shown(ada, ours, "?status=failed") == [str(to_other[0].id)]
    assert shown(ada, ours, "?type=endpoint.ping") == [str(ours.delivery.id)]
    assert shown(ada, ours, f"?to={other.id}") == [str(to_other[0].id)]
    assert shown(ada, ours, f"?to={new_id()}") == []
    assert shown(ada, ours, "?until=2020-01-01") == []
    since = f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H:%M}"
    assert shown(ada, ours, f"?since={since}") == shown(ada, ours)
    assert "Clear the filter" in ada.get(ours.path("/deliveries?until=2020-01-01")).text


@pytest.mark.parametrize("query", ["?status=lost", "?type=x", "?to=x", "?before=x", "?since=x"])
def test_what_no_form_of_ours_says_is_refused(ada: Browser, ours: Furnished, query: str) -> None:
    assert ada.get(ours.path("/deliveries") + query).status_code == 400


def test_pages_miss_and_repeat_nothing(ada: Browser, ours: Furnished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.dashboard.deliveries.PAGE", 3)
    with transaction() as session:
        endpoint = session.get_one(Endpoint, ours.endpoint.id)
        ids = {str(endpoints.ping(session, endpoint).id) for _ in range(7)} | {str(ours.delivery.id)}
    seen, path = [], ours.path("/deliveries?type=endpoint.ping")
    while path:
        page = html.unescape(ada.get(path).text)
        seen += LINK.findall(page)
        following = re.search(r'href="([^"]+)">Next page', page)
        path = following[1] if following else ""
    assert len(seen) == len(set(seen)) == 8 and set(seen) == ids


def test_without_any_it_is_said_what_to_do(ada: Browser, tenant: Tenant) -> None:
    path = f"/dashboard/platforms/{tenant.id}/deliveries"
    assert "There is no endpoint to send to" in ada.get(path).text
    with transaction() as session:
        make_endpoint(session, tenant)
    assert "Send a ping" in ada.get(path).text


def test_one_shows_its_request_and_every_attempt(ada: Browser, ours: Furnished) -> None:
    with transaction() as session:
        made = endpoints.ping(session, session.get_one(Endpoint, ours.endpoint.id))
    outcomes = [Outcome(500, "<b>not today</b>", None, 812), Outcome(None, None, "It does not resolve.", 3)]
    for outcome in outcomes:
        with transaction() as session:
            session.get_one(Delivery, made.id).next_attempt_at = datetime.now(UTC) - timedelta(seconds=1)
        with transaction() as session:
            attempt(session, made.id, outcome)
    page = ada.get(ours.path(f"/deliveries/{made.id}")).text
    assert "&lt;b&gt;not today&lt;/b&gt;" in page and "812 ms" in page and "It does not resolve." in page
    blocks = {name: html.unescape(text) for name, text in BLOCK.findall(page)}
    first, *lines = blocks["Headers"].strip().splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    assert first == f"POST {ours.endpoint.url}"
    secrets = endpoints.secrets_of(ours.endpoint)
    assert signing.verify_standard(secrets, headers, blocks["Body"].encode()) == str(made.event_id)
    assert json.loads(blocks["Body"])["type"] == "endpoint.ping"
    assert not [text for text in (*ours.endpoint.secrets, *secrets) if text in page]


def test_one_that_is_due_is_followed_and_another_is_not(ada: Browser, ours: Furnished) -> None:
    assert "hx-trigger" not in ada.get(ours.path("/deliveries/{delivery}")).text
    assert ada.post(ours.path("/deliveries/{delivery}/replay")).status_code == 303
    assert 'hx-trigger="every 2s"' in ada.get(ours.path("/deliveries/{delivery}")).text
    for hours in (-1, 1):
        with transaction() as session:
            session.get_one(Delivery, ours.delivery.id).next_attempt_at = datetime.now(UTC) + timedelta(hours=hours)
        assert "hx-trigger" not in ada.get(ours.path("/deliveries/{delivery}")).text
    ada.post(ours.path("/endpoints/{endpoint}/disable"))
    page = ada.get(ours.path("/deliveries/{delivery}")).text
    assert "hx-trigger" not in page and "none: the endpoint is disabled" in page


def test_what_cannot_be_signed_says_so(ada: Browser, ours: Furnished) -> None:
    with transaction() as session:
        session.get_one(Endpoint, ours.endpoint.id).secrets = []
    assert "Nothing signs this event" in ada.get(ours.path("/deliveries/{delivery}")).text


def test_one_is_sent_again(ada: Browser, ours: Furnished) -> None:
    before = row(ours.delivery.id)
    answer = ada.post(ours.path("/deliveries/{delivery}/replay"))
    assert answer.location == ours.path("/deliveries/{delivery}") + "?said=delivery_replayed"
    now = row(ours.delivery.id)
    assert (before.status, now.status, now.attempts) == (DeliveryStatus.DELIVERED, DeliveryStatus.PENDING, 0)
    assert now.event_id == before.event_id
