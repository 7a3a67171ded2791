"""The queue page and what is behind it: order, filters, counts, paging, search, and whose cases they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from moderation import claims, tenants
from moderation.db import transaction
from moderation.tables import Case, Claim, SignIn, Tenant, User
from moderation.vocabulary import CaseStatus, ReviewReason, Role
from tests.api.dashboard.conftest import Browser
from tests.factories import make_case, make_tenant, make_version
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


@pytest.mark.parametrize(
    "query",
    [
        "?reason=boredom",
        "?from=2",
        "?from=x",
        "?tenant=7",
        "?after=7",
        "?after=7~normal~x",
        "?undo=x",
        "?age=5",
        "?age=x",
        "?priority=now",
        "?version=7",
    ],
)
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
    at = datetime(2026, 1, 2, 3, 4, 10, 738_900, tzinfo=UTC)  # times have such digits too
    with transaction() as session:
        waits(session, tenant, "open", score=0.6123)
        waits(session, tenant, "closed", score=0.7389, blind=True, settled_at=at)
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


def test_each_filter_alone_and_together(anna: Browser, tenant: Tenant) -> None:
    now = datetime.now(UTC)
    with transaction() as session:
        waits(session, tenant, "plain", category="people", settled_at=now - timedelta(minutes=1))
        waits(session, tenant, "old", category="people", settled_at=now - timedelta(days=2))
        newer = make_version(session, "newer")
        waits(session, tenant, "new model", category='art & "maps"', model_version_id=newer.id, priority=3)
    assert shown(anna, "?category=people") == ["old", "plain"]
    assert shown(anna, "?category=art+%26+%22maps%22") == ["new model"]
    assert shown(anna, f"?version={newer.id}") == ["new model"]
    assert shown(anna, "?age=24") == ["old"] and shown(anna, "?age=168") == []
    assert shown(anna, "?priority=urgent") == ["new model"]
    assert shown(anna, "?category=people&age=1&priority=normal") == ["old"]
    assert "1 case waits" in totals(anna, "?category=people&age=1&priority=normal")
    page = anna.get(QUEUE).text
    assert "people</option>" in page and "art &amp; &#34;maps&#34;</option>" in page and "newer</option>" in page


def test_the_cursor_tells_nothing_that_the_page_does_not(
    anna: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderation.queue.PAGE", 1)
    with transaction() as session:
        case = waits(session, tenant, "blind", blind=True, score=0.7312, priority=2)
        waits(session, tenant, "after")
    page = anna.get(QUEUE).text
    cursor = re.search(r"after=([^\"&]+)\">Next page", page)
    assert cursor and case.settled_at
    assert unquote(cursor[1]) == f"{case.id}~high~{case.settled_at.isoformat()}"
    assert shown(anna, f"?after={cursor[1]}") == ["after"]


def test_a_page_goes_on_where_it_ended_though_the_case_has_been_decided_or_changed(
    anna: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderation.queue.PAGE", 1)
    with transaction() as session:
        made = [
            waits(session, tenant, f"c{n}", score=None, settled_at=datetime(2026, 1, 1 + n, tzinfo=UTC))
            for n in range(3)
        ]
    following = re.search(r'href="([^"]+)">Next page', anna.get(QUEUE).text)
    assert following
    with transaction() as session:
        first = session.get_one(Case, made[0].id)
        first.status, first.settled_at, first.priority = CaseStatus.DECIDED, datetime.now(UTC), 0
    assert LINK.findall(anna.get(following[1].replace("&amp;", "&")).text) == ["c1"]


def test_a_page_after_somebody_elses_case_is_not_known(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        theirs = waits(session, make_tenant(session), "theirs")
        secret = waits(session, tenant, "restricted", restricted=True)
    for case in (theirs, secret):
        assert anna.get(f"{QUEUE}?after={case.id}~normal~2026-01-01T00:00:00%2B00:00").status_code == 404


@pytest.mark.parametrize("reason", [ReviewReason.APPEAL, ReviewReason.AUDIT])
def test_of_an_appeal_or_an_audit_neither_score_nor_place_is_told(
    anna: Browser, tenant: Tenant, reason: ReviewReason
) -> None:
    at = datetime(2026, 1, 2, 3, 4, 10, 432_100, tzinfo=UTC)  # times have such digits too
    with transaction() as session:
        waits(session, tenant, "hidden", review_reason=reason, score=0.4321, settled_at=at)
        waits(session, tenant, "seen", score=0.4321)
    page = anna.get(QUEUE).text
    assert page.count("0.43") == 1 and "hidden</span>" in page
    assert shown(anna, "?from=0.43&to=0.44") == ["seen"]
    assert "1 case waits" in totals(anna, "?from=0.43&to=0.44")


def test_what_is_assigned_to_who_is_gone_is_for_the_others(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        disabled, gone, works = (make_person(session, *of).user_id for of in ([tenant], [], [tenant]))
        session.get_one(User, disabled).disabled_at = datetime.now(UTC)
        for name, assigned_to in (("a", disabled), ("b", gone), ("c", works)):
            waits(session, tenant, name, assigned_to=assigned_to)
    opened = [anna.post(f"{QUEUE}/next").location for _ in range(3)]
    assert len(set(opened[:2])) == 2 and all("/dashboard/cases/" in path for path in opened[:2])
    with transaction() as session:
        claimed = {claim.case_id for claim in session.query(Claim)}
        names = {session.get_one(Case, id_).submission.external_id for id_ in claimed}
    assert names == {"a", "b"}


def test_that_a_lead_is_missing_is_said_to_moderators(
    anna: Browser, tenant: Tenant, browser_of: Callable[..., Browser]
) -> None:
    with transaction() as session:
        waits(session, tenant, "one", escalated_at=datetime.now(UTC))
        waits(session, tenant, "two", restricted=True)
    assert "2 cases wait for a lead, and there is none" in anna.get(QUEUE).text
    admin = browser_of(Role.ADMIN)
    assert sorted(shown(admin)) == ["one", "two"], "who administers may do what a lead does"
    assert "there is none" not in anna.get(QUEUE).text
    assert admin.user is not None
    with transaction() as session:
        session.get_one(User, admin.user.id).disabled_at = datetime.now(UTC)
    assert "there is none" in anna.get(QUEUE).text


def test_bulk_refuses_what_no_form_of_ours_sends(tenant: Tenant, browser_of: Callable[..., Browser]) -> None:
    lead = browser_of(Role.LEAD)
    with transaction() as session:
        case_id = waits(session, tenant, "one").id
    for sent in (
        {"do": "delete", "case": case_id},
        {"do": "escalate"},
        {"do": "escalate", "case": "7"},
        {"do": "hold", "case": case_id, "hours": "5"},
        {"do": "reassign", "case": case_id},
        {"do": "prioritise", "case": case_id, "priority": "now"},
        {"do": "answer", "case": case_id},
    ):
        assert lead.post(f"{QUEUE}/bulk", sent).status_code == 400, sent
    assert "1 done." in lead.post(f"{QUEUE}/bulk?reason=appeal", {"do": "escalate", "case": case_id}).text


def test_a_heartbeat_does_not_keep_somebody_signed_in(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        case_id = waits(session, tenant, "one").id
    anna.post(f"/dashboard/cases/{case_id}/claim")
    with transaction() as session:
        claim = claims.live(session, case_id)
        assert claim is not None
        session.execute(update(SignIn).values(last_seen_at=SignIn.last_seen_at - timedelta(minutes=30)))
        before = session.scalars(select(SignIn.last_seen_at)).one()
    token = accounts_token(anna)
    beat = {"fence": claim.fence, "csrf_token": token}
    assert anna.http.post(f"/dashboard/cases/{case_id}/heartbeat", data=beat).status_code == 204
    with transaction() as session:
        assert session.scalars(select(SignIn.last_seen_at)).one() == before
    anna.get(QUEUE)
    with transaction() as session:
        assert session.scalars(select(SignIn.last_seen_at)).one() > before


def accounts_token(browser: Browser) -> str:
    """The page's CSRF token, without being there: asking for it is a page too, so the clock is put back after it."""
    with transaction() as session:
        before = session.scalars(select(SignIn.last_seen_at)).one()
    token = browser.token()
    with transaction() as session:
        session.execute(update(SignIn).values(last_seen_at=before))
    return token
