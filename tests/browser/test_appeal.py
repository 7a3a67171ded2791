"""An appeal: answered in real Chromium by somebody who sees nothing of the decision, and told to the platform."""

from __future__ import annotations

import http.server
import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import select
from standardwebhooks import Webhook

from moderation import appeals, attempts, endpoints
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Delivery, Event
from moderation.vocabulary import CaseStatus, Label
from tests.browser.conftest import Dashboard, tenant_named
from tests.browser.moderating import ANNA, BERT, Look, give_picture, heading, person, settle, typed
from tests.factories import make_case, make_endpoint
from tests.moderation.test_outbound import serving

APPELLANT = "This is my own photo.\nThe raw file is attached to the ticket."


def thanks(request: http.server.BaseHTTPRequestHandler) -> None:
    """What the platform answers."""
    request.send_response(204)
    request.end_headers()


def delivered(url: str, port: int) -> None:
    """What is due is sent to the platform, which listens here."""
    allowed = settings().model_copy(update={"allowed_hosts": (f"127.0.0.1:{port}",)})
    with transaction() as session:
        query = select(Delivery.id).join(Event, Event.id == Delivery.event_id).order_by(Event.sequence)
        ids = session.scalars(query).all()
    for delivery_id in ids:
        with transaction() as session:
            parcel = attempts.take(session, delivery_id, attempts.SLOW_DOWN)
            assert parcel is not None and parcel.url == url
            attempts.settle(session, parcel, attempts.send(parcel, allowed))


@pytest.mark.usefixtures("bucket")
def test_an_appeal_is_answered_unseen_and_the_platform_hears_why(dashboard: Dashboard, look: Look) -> None:
    person(dashboard, ANNA)
    with serving(thanks) as platform:
        with transaction() as session:
            tenant = tenant_named(session, "Pixelgram")
            endpoint = make_endpoint(session, tenant, platform.url(), ["appeal.decided"])
            case_id = make_case(session, tenant, CaseStatus.DECIDED, external_id="photo-7").id
        give_picture(case_id, 1)
        with transaction() as session:
            appeals.file(session, tenant.id, case_id, actor="api_key:1", message=APPELLANT)
        page = dashboard.sign_in(ANNA, "/dashboard/appeals")
        heading(page, "Appeals")
        expect(page.locator("[data-totals]")).to_contain_text("1 appeal waits")
        look(page, "appeals")
        page.keyboard.press("Enter")
        heading(page, "photo-7")
        expect(page.locator(".appellant")).to_have_text(APPELLANT)
        # A time may have these digits too, after others.
        for secret in (r"(?<!\d)0\.97", "decided it", "fake from", "Its explanation"):
            assert not re.search(secret, page.content()), secret
        look(page, "case-appeal")
        typed(page, "k", "The raw file settles it: sorry.")
        typed(page, "n", "metadata agrees")
        page.keyboard.press("r")
        heading(page, "Queue")
        assert settle(case_id).label is Label.REAL
        delivered(platform.url(), platform.port)
    [(_, _, headers, body)] = platform.seen
    told: Any = Webhook(endpoints.secrets_of(endpoint)[0]).verify(body, headers)
    assert told == json.loads(body) and told["type"] == "appeal.decided"
    assert told["data"]["appeal"] == {"outcome": "overturned", "message": "The raw file settles it: sorry."}
    assert told["data"]["decision"]["label"] == "real" and "metadata agrees" not in body.decode()
    page.goto(f"/dashboard/cases/{case_id}")
    expect(page.get_by_text("The raw file settles it: sorry.").first).to_be_visible()
    expect(page.get_by_text("0.970")).to_be_visible()
    look(page, "case-appealed")


def test_no_appeal_says_how_one_comes_about(dashboard: Dashboard, look: Look) -> None:
    person(dashboard, BERT)
    page = dashboard.sign_in(BERT, "/dashboard/appeals")
    expect(page.get_by_text("No appeal waits")).to_be_visible()
    look(page, "appeals-none")
