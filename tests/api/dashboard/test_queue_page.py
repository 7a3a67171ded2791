"""The queue page and what is behind it: order, filters, counts, paging, search, and whose cases they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from moderation import claims, tenants
from moderation.db import transaction
from moderation.tables import Case, Claim, Tenant
from moderation.vocabulary import CaseStatus, ReviewReason, Role
from tests.api.dashboard.conftest import Browser
from tests.factories import make_case, make_tenant
from tests.reviewing import make_person, make_review_case

QUEUE = "/dashboard/queue"
LINK = re.compile(r'class="case-link"[^>]*>([^<]+)<')
TOTALS = re.compile(r"data-totals[^>]*>(.*?)</p>", re.DOTALL)


@pytest.fixture
def anna(browser_of: Callable[..., Browser]) -> Browser:
    return browser_of(Role.MODERATOR)


def shown(browser: Browser, query: str = "") -> list[str]:
    answer = browser.get(QUEUE + query)
    assert answer.status_code == 200, answer.text
    return LINK.findall(answer.text)


def totals(browser: Browser, query: str = "") -> str:
    found = TOTALS.search(browser.get(QUEUE + query).text)
    assert found
    return found[1]


def waits(session: Session, tenant: Tenant, name: str, **fields: object) -> Case:
    """A case in review that the queue shows under this name; `fields` are columns of the case."""
    case = make_review_case(session, tenant, external_id=name)
    for column, value in fields.items():
        setattr(case, column, value)
    return case


def test_priority_comes_before_doubt_and_doubt_before_age(anna: Browser, tenant: Tenant) -> None:
    now = datetime.now(UTC)
    with transaction() as session:
        waits(session, tenant, "young", score=0.4, settled_at=now)
        waits(session, tenant, "old", score=0.6, settled_at=now - timedelta(days=2))
        waits(session, tenant, "sure", score=0.84, settled_at=now - timedelta(days=9))
        waits(session, tenant, "doubtful", score=0.5, settled_at=now)
        waits(session, tenant, "unreadable", score=None, settled_at=now - timedelta(days=1))
        waits(session, tenant, "urgent", priority=3, score=0.84, settled_at=now)
    assert shown(anna) == ["urgent", "unreadable", "doubtful", "old", "young", "sure"]


def test_pages_miss_and_repeat_nothing_while_cases_come_and_go(
    anna: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderation.queue.PAGE", 3)
    with transaction() as session:
        cases = [waits(session, tenant, f"c{n}", priority=n % 2, score=0.5 + (n % 3) / 10) for n in range(8)]
    seen, path = [], QUEUE
    while path:
        page = anna.get(path)
        seen += LINK.findall(page.text)
        following = re.search(r'href="([^"]+)">Next page', page.text)
        path = following[1].replace("&amp;", "&") if following else ""
        with transaction() as session:  # what is shown already leaves the queue
            session.get_one(Case, next(c.id for c in cases if c.submission.external_id == seen[-1])).held_until = (
                datetime.now(UTC) + timedelta(days=1)
            )
    assert sorted(seen) == [f"c{n}" for n in range(8)]


def test_of_several_platforms_the_parts_are_merged(tenant: Tenant, browser_of: Callable[..., Browser]) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
        waits(session, tenant, "a", score=0.5)
        waits(session, other, "b", score=0.6)
        waits(session, tenant, "c", score=0.7)
    both = browser_of(Role.MODERATOR)
    assert both.user is not None
    with transaction() as session:
        tenants.add_member(session, both.user, session.get_one(Tenant, other.id), Role.MODERATOR)
    assert shown(both) == ["a", "b", "c"]
    assert shown(both, f"?tenant={other.id}") == ["b"]
    assert "3 cases wait" in totals(both) and "1 case waits" in totals(both, f"?tenant={other.id}")


def test_filters(anna: Browser, tenant: Tenant) -> None:
    assert anna.user is not None
    with transaction() as session:
        waits(session, tenant, "appeal", review_reason=ReviewReason.APPEAL, score=0.9)
        waits(session, tenant, "blind", blind=True, score=0.31)
        waits(session, tenant, "held", held_until=datetime.now(UTC) + timedelta(hours=1), score=0.35)
        waits(session, tenant, "assigned", assigned_to=anna.user.id, score=0.4)
    assert shown(anna, "?reason=appeal") == ["appeal"]
    assert shown(anna, "?from=0.3&to=0.5") == ["assigned"], "not the blind one: to find it by score would be to see it"
    assert shown(anna, "?mine=1") == ["assigned"]
    assert shown(anna, "?held=1") == ["held"]
    assert shown(anna, "?reason=unparsable") == []
    assert "Clear the filter" in anna.get(f"{QUEUE}?reason=unparsable").text
    assert "0 cases wait" in totals(anna, "?reason=unparsable") and "3 cases wait" in totals(anna)


@pytest.mark.parametrize("query", ["?reason=boredom", "?from=2", "?from=x", "?tenant=7", "?after=7", "?undo=x"])
def test_what_no_link_of_ours_says_is_refused(anna: Browser, query: str) -> None:
    assert anna.get(QUEUE + query).status_code == 400


def test_the_oldest_age_is_that_of_the_oldest(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        waits(session, tenant, "old", settled_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
        waits(session, tenant, "new")
    assert 'datetime="2026-01-02T03:04:00+00:00"' in totals(anna)


def test_others_platforms_restricted_and_escalated_cases_are_not_there(
    anna: Browser, tenant: Tenant, browser_of: Callable[..., Browser]
) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
        waits(session, other, "theirs")
        waits(session, tenant, "restricted", restricted=True)
        waits(session, tenant, "escalated", escalated_at=datetime.now(UTC))
    assert shown(anna) == [] and "0 cases wait" in totals(anna)
    assert shown(anna, "?q=theirs") == shown(anna, "?q=restricted") == []
    assert anna.get(f"{QUEUE}?tenant={other.id}").status_code == 404
    lead = browser_of(Role.LEAD)
    assert sorted(shown(lead)) == ["escalated", "restricted"] and "2 cases wait" in totals(lead)
    assert shown(lead, "?q=restricted") == ["restricted"]


def test_search_finds_by_external_id_image_and_case_in_any_status(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        case = waits(session, tenant, "post-1")
        decided = make_case(session, tenant, CaseStatus.DECIDED, external_id="post-2")
        assert decided.image is not None
        sha256 = decided.image.sha256
    assert shown(anna, "?q=post-1") == ["post-1"]
    assert shown(anna, f"?q={case.id}") == ["post-1"]
    assert shown(anna, f"?q=%20{sha256.upper()}") == ["post-2"]
    assert "decided: fake" in anna.get(f"{QUEUE}?q=post-2").text
    assert "Nothing is found" in anna.get(f"{QUEUE}?q=post").text
    assert anna.get(f"{QUEUE}?q=%00").status_code == 200


def test_scores_are_shown_but_for_blind_cases(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        waits(session, tenant, "open", score=0.6123)
        waits(session, tenant, "closed", score=0.7389, blind=True)
    page = anna.get(QUEUE).text
    assert "0.61" in page and "0.73" not in page and "0.74" not in page


def test_who_is_at_work_is_shown(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        bert = make_person(session, tenant, email="bert@example.com")
        claims.claim(session, bert, waits(session, tenant, "one").id)
    assert "bert@example.com" in anna.get(QUEUE).text


def test_the_next_case_is_claimed_and_opened_within_the_filter(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        waits(session, tenant, "first", priority=3)
        appealed = waits(session, tenant, "appeal", review_reason=ReviewReason.APPEAL)
    answer = anna.post(f"{QUEUE}/next?reason=appeal")
    assert (answer.status_code, answer.location) == (303, f"/dashboard/cases/{appealed.id}?reason=appeal")
    assert live_of(appealed.id)


def test_an_empty_queue_says_so(anna: Browser) -> None:
    assert anna.post(f"{QUEUE}/next").location == f"{QUEUE}?said=queue_done"
    assert "Nothing waits for review" in anna.get(QUEUE).text


def live_of(case_id: UUID) -> Claim | None:
    with transaction() as session:
        return claims.live(session, case_id)
