"""Failed cases: found, tried again one by one or by filter, by leads too."""

from __future__ import annotations

import re
from collections.abc import Callable
from uuid import UUID

import pytest

from moderation import cases
from moderation.db import transaction
from moderation.tables import Case, Tenant
from moderation.vocabulary import CaseStatus, FailureReason, Role
from tests.api.dashboard.conftest import Browser
from tests.factories import make_case, take_case
from tests.platforms import Furnished

LINK = re.compile(r'<td class="address"><a href="[^"]+">([^<]+)<')


@pytest.fixture
def lea(browser_of: Callable[..., Browser]) -> Browser:
    return browser_of(Role.LEAD)


def failed(tenant: Tenant, name: str, reason: FailureReason = FailureReason.INTERNAL) -> UUID:
    with transaction() as session:
        case = make_case(session, tenant, external_id=name)
        take_case(session, case)
        cases.fail(session, case, reason, f"{name} <failed>")
        return case.id


def shown(browser: Browser, ours: Furnished, query: str = "") -> list[str]:
    answer = browser.get(ours.path("/failures") + query)
    assert answer.status_code == 200, answer.text
    return LINK.findall(answer.text)


def status_of(case_id: UUID) -> CaseStatus:
    with transaction() as session:
        return session.get_one(Case, case_id).status


def test_without_any_it_is_said_what_would_be_here(lea: Browser, tenant: Tenant) -> None:
    page = lea.get(f"/dashboard/platforms/{tenant.id}/failures").text
    assert "No case has failed" in page and "0 cases without a verdict" in page and "retry-all" not in page


def test_filters_and_counts(lea: Browser, ours: Furnished) -> None:
    failed(ours.tenant, "post-1")
    failed(ours.tenant, "post-2", FailureReason.LINK_STATUS)
    assert shown(lea, ours) == ["post-2", "post-1", "post-404"]
    assert shown(lea, ours, "?reason=internal") == ["post-1"]
    assert shown(lea, ours, "?until=2020-01-01") == []
    page = lea.get(ours.path("/failures")).text
    assert "3 cases without a verdict" in page and "our own fault (1)" in page and "post-1 &lt;failed&gt;" in page
    for query in ("?reason=x", "?since=x", "?before=x"):
        assert lea.get(ours.path("/failures") + query).status_code == 400


def test_pages_miss_and_repeat_nothing(lea: Browser, ours: Furnished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.dashboard.failures.PAGE", 2)
    for number in range(4):
        failed(ours.tenant, f"post-{number}")
    seen, path = [], ours.path("/failures")
    while path:
        page = lea.get(path).text
        seen += LINK.findall(page)
        following = re.search(r'href="([^"]+)">Next page', page)
        path = following[1].replace("&amp;", "&") if following else ""
    assert seen == ["post-3", "post-2", "post-1", "post-0", "post-404"]


def test_one_is_tried_again_and_the_filter_stays(lea: Browser, ours: Furnished) -> None:
    answer = lea.post(ours.path("/failures/{failed}/retry?reason=undecodable"))
    assert answer.location == ours.path("/failures?said=case_retried&reason=undecodable")
    assert status_of(ours.failed.id) is CaseStatus.QUEUED
    assert lea.post(ours.path("/failures/{failed}/retry")).status_code == 409


def test_all_of_a_filter_are_tried_again(lea: Browser, ours: Furnished) -> None:
    mine = [failed(ours.tenant, f"post-{number}") for number in range(2)]
    path = ours.path("/failures/retry?reason=internal")
    assert "said=cases_retried" in lea.post(path).location
    assert [status_of(case_id) for case_id in mine] == [CaseStatus.QUEUED] * 2
    assert status_of(ours.failed.id) is CaseStatus.FAILED
    assert "said=nothing_retried" in lea.post(path).location
