"""What one's work asked of oneself: on one's own account page, and a word on the case page after an hour."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from moderation import wellness
from moderation.db import transaction
from moderation.tables import Claim, Tenant
from moderation.vocabulary import Role
from tests.api.dashboard.conftest import Browser
from tests.reviewing import make_review_case


@pytest.fixture
def anna(browser_of: Callable[..., Browser]) -> Browser:
    return browser_of(Role.MODERATOR)


def claimed(browser: Browser, tenant: Tenant) -> UUID:
    with transaction() as session:
        case_id = make_review_case(session, tenant).id
    browser.post(f"/dashboard/cases/{case_id}/claim")
    return case_id


def for_long(span: timedelta) -> None:
    """All claims have been there for so long."""
    with transaction() as session:
        session.execute(update(Claim).values(claimed_at=Claim.claimed_at - span))


def test_hours_and_hard_images_are_on_ones_own_page_alone(
    anna: Browser, tenant: Tenant, browser_of: Callable[..., Browser]
) -> None:
    case_id = claimed(anna, tenant)
    for_long(timedelta(minutes=83))
    with transaction() as session:
        fence = session.query(Claim).one().fence
    anna.post(f"/dashboard/cases/{case_id}/answer", {"fence": fence, "answer": "real", "disturbing": "1"})
    page = anna.get("/dashboard/account").text
    assert page.count("1 h 23 min") == 3 and "Only you see this" in page
    assert page.count('<td class="numbers">1</td>') == 2
    lead = browser_of(Role.LEAD).get("/dashboard/account").text
    assert "1 h 23 min" not in lead and lead.count('<td class="numbers">0</td>') == 2


def test_who_works_for_no_platform_has_no_such_numbers(browser_of: Callable[..., Browser]) -> None:
    assert "Only you see this" not in browser_of(None).get("/dashboard/account").text


def test_after_an_hour_the_case_page_says_so_gently(anna: Browser, tenant: Tenant) -> None:
    case_id = claimed(anna, tenant)
    for span, said in ((wellness.LONG_STRETCH - timedelta(minutes=1), False), (timedelta(minutes=1), True)):
        for_long(span)
        assert ("without a break" in anna.get(f"/dashboard/cases/{case_id}").text) is said
