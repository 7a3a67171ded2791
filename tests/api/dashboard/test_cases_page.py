"""The case page: who may see what of a case, and every button on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from uuid import UUID

import pytest
from PIL import Image as Pixels
from sqlalchemy import select

from api.dashboard import cookies
from moderation import accounts, claims, erasure, restrictions, reviews
from moderation.accounts import Person
from moderation.db import new_id, transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Claim, Event, Review, Tenant
from moderation.vocabulary import Answer, CaseStatus, ClaimEnd, Grade, Role
from tests.api.dashboard.conftest import PASSWORD, Browser
from tests.exhibiting import exhibit
from tests.factories import make_case, make_tenant
from tests.reviewing import SENTENCES, expire, make_person, make_review_case, ten_seconds_later

FENCE = re.compile(r'name="fence" value="(\d+)"')


@pytest.fixture
def anna(browser_of: Callable[..., Browser]) -> Browser:
    return browser_of(Role.MODERATOR)


@pytest.fixture
def bert(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant, email="bert@example.com")


def review_case(tenant: Tenant, *, blind: bool = False, score: float = 0.6123) -> UUID:
    with transaction() as session:
        return make_review_case(session, tenant, blind=blind, score=score).id


def url(case_id: UUID, action: str = "") -> str:
    return f"/dashboard/cases/{case_id}{action and '/' + action}"


def claimed(browser: Browser, case_id: UUID) -> str:
    """Claim through the page; returns the fence in its form."""
    assert browser.post(url(case_id, "claim")).location == url(case_id)
    found = FENCE.search(browser.get(url(case_id)).text)
    assert found
    return found[1]


def row(case_id: UUID) -> Case:
    with transaction() as session:
        return session.get_one(Case, case_id)


def test_looking_claims_nothing(anna: Browser, tenant: Tenant) -> None:
    case_id = review_case(tenant)
    page = anna.get(url(case_id))
    assert page.status_code == 200 and "Review this case" in page.text and "fence" not in page.text
    assert "0.612" in page.text and all(said in page.text for said in SENTENCES)
    with transaction() as session:
        assert session.scalars(select(Claim)).all() == []


def test_an_answer_with_all_there_is_to_say_leads_to_the_next_case(anna: Browser, tenant: Tenant) -> None:
    first, second = review_case(tenant, score=0.5), review_case(tenant)
    form = {
        "fence": claimed(anna, first),
        "answer": "fake",
        "artifact": ["anatomy", "text"],
        "grade-0": "right",
        "grade-2": "wrong",
        "written-2": "Light falls from one side.",
        "additions": "The sign says nothing.\n\nThe ear is missing.",
        "note": "As last week.",
    }
    answer = anna.post(url(first, "answer"), form)
    assert (answer.status_code, answer.location) == (303, f"{url(second)}?undo={first}")
    with transaction() as session:
        review = session.scalars(select(Review)).one()
        assert (review.answer, review.artifacts, review.note) == (Answer.FAKE, ["anatomy", "text"], "As last week.")
        assert [(s.said, s.grade, s.written) for s in review.sentences] == [
            (SENTENCES[0], Grade.RIGHT, None),
            (SENTENCES[2], Grade.WRONG, "Light falls from one side."),
            (None, None, "The sign says nothing."),
            (None, None, "The ear is missing."),
        ]
    page = anna.get(answer.location).text
    assert "data-undo" in page and "Answered <b>fake</b>" in page and FENCE.search(page)


def test_the_last_answer_leads_to_the_queue_where_it_can_still_be_undone(anna: Browser, tenant: Tenant) -> None:
    case_id = review_case(tenant)
    answer = anna.post(url(case_id, "answer"), {"fence": claimed(anna, case_id), "answer": "real"})
    assert answer.location == f"/dashboard/queue?undo={case_id}"
    assert "data-undo" in anna.get(answer.location).text
    ten_seconds_later(case_id)
    assert "data-undo" not in anna.get(answer.location).text


def test_an_answer_can_be_undone_on_its_own_page(browser_of: Callable[..., Browser], tenant: Tenant) -> None:
    lea, case_id = browser_of(Role.LEAD), review_case(tenant)
    assert "1 done" in lea.post("/dashboard/queue/bulk", {"do": "answer", "answer": "fake", "case": str(case_id)}).text
    for _ in range(2):
        page = lea.get(url(case_id)).text
        assert "data-undo" in page and url(case_id, "undo") in page
    ten_seconds_later(case_id)
    assert "data-undo" not in lea.get(url(case_id)).text


def test_undo_brings_back_the_case_and_what_was_filled_in(anna: Browser, tenant: Tenant) -> None:
    case_id = review_case(tenant)
    form = {
        "fence": claimed(anna, case_id),
        "answer": "fake",
        "artifact": "shadow",
        "grade-1": "unclear",
        "written-1": "Perhaps.",
        "note": "Hm.",
    }
    anna.post(url(case_id, "answer"), form)
    undone = anna.post(url(case_id, "undo"))
    assert undone.location == f"{url(case_id)}?said=answer_undone"
    page = anna.get(undone.location).text
    assert re.search(r'name="grade-1" value="unclear" checked', page)
    assert re.search(r'value="shadow" checked', page)
    assert 'value="Perhaps."' in page and ">Hm.</textarea>" in page and FENCE.search(page)
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    assert row(case_id).status is CaseStatus.IN_REVIEW


def test_undoing_too_late_says_so(anna: Browser, tenant: Tenant) -> None:
    case_id = review_case(tenant)
    anna.post(url(case_id, "answer"), {"fence": claimed(anna, case_id), "answer": "fake"})
    ten_seconds_later(case_id)
    answer = anna.post(url(case_id, "undo"))
    assert answer.status_code == 409 and "ten seconds are over" in answer.text


def test_a_late_answer_is_a_conflict_with_everything_still_in_the_form(
    anna: Browser, tenant: Tenant, bert: Person
) -> None:
    case_id = review_case(tenant)
    fence = claimed(anna, case_id)
    expire(case_id)
    with transaction() as session:
        claims.claim(session, bert, case_id)
    form = {"fence": fence, "answer": "fake", "grade-0": "wrong", "artifact": "edges", "note": "Do not lose me <b>"}
    late = anna.post(url(case_id, "answer"), form)
    assert late.status_code == 409
    assert "bert@example.com has it now" in late.text
    assert "Do not lose me &lt;b&gt;" in late.text and 'value="edges" checked' in late.text
    assert re.search(r'name="grade-0" value="wrong" checked', late.text)
    with transaction() as session:
        assert session.scalars(select(Review)).all() == []
        claims.release(session, bert, case_id, int(fence) + 1)
    again = anna.post(url(case_id, "claim"), headers={"Accept": "application/json"})
    assert again.json == {"fence": int(fence) + 2}
    sent = anna.post(url(case_id, "answer"), {**form, "fence": again.json["fence"]})
    assert sent.status_code == 303


def test_who_signed_in_again_gets_what_they_typed_and_a_form_that_can_be_sent(anna: Browser, tenant: Tenant) -> None:
    case_id = review_case(tenant)
    fence, token = claimed(anna, case_id), anna.token()
    form = {"fence": fence, "answer": "fake", "grade-0": "wrong", "note": "Twenty minutes of typing <b>"}
    assert anna.user is not None
    anna.http.set_cookie(
        cookies.SESSION, accounts.sign_in(anna.user.email, PASSWORD, address="127.0.0.1", browser="Chrome")
    )
    for action in ("answer", "skip", "hold", "escalate", "reassign"):
        stale = anna.http.post(url(case_id, action), data={**form, "csrf_token": token})
        assert stale.status_code == 403 and "You have signed in again" in stale.text, action
        assert "Twenty minutes of typing &lt;b&gt;" in stale.text
        assert re.search(r'name="grade-0" value="wrong" checked', stale.text)
        assert f'name="csrf_token" value="{anna.token()}"' in stale.text
    with transaction() as session:
        assert session.scalars(select(Review)).all() == []
        assert session.scalars(select(Claim)).one().ended_at is None
    assert anna.post(url(case_id, "answer"), form).status_code == 303
    by_script = anna.http.post(url(case_id, "heartbeat"), data={"fence": fence, "csrf_token": token})
    assert by_script.status_code == 403 and "nothing was changed" in by_script.text


@pytest.mark.parametrize("action", ["answer", "skip", "hold", "escalate", "report"])
def test_what_was_written_of_a_case_that_is_gone_is_given_back_and_nothing_else(
    anna: Browser, tenant: Tenant, action: str
) -> None:
    case_id = review_case(tenant, score=0.6123)
    fence = claimed(anna, case_id)
    with transaction() as session:
        lead = make_person(session, tenant, role=Role.LEAD)
        restrictions.report(session, lead, case_id)
    words = {"note": "Do not lose me <b>", "written-2": "Light falls", "additions": "The sign.", "what": "Look: "}
    form = {"fence": fence, "answer": "fake", "hours": "1", **words}
    for gone in (case_id, new_id()):
        late = anna.post(url(gone, action), form)
        assert late.status_code == 404 and f"There is no case {gone}." in late.text
        assert "Do not lose me &lt;b&gt;</textarea>" in late.text
        assert all(text in late.text for text in ("Light falls", "The sign.", "Look: "))
        assert "0.612" not in late.text and SENTENCES[0] not in late.text and "illegal" not in late.text
        with_stale_token = anna.post(url(gone, action), {**form, "csrf_token": "0" * 64})
        assert with_stale_token.status_code == 403
        assert ("Do not lose me" in with_stale_token.text) is (action != "report")
        empty = anna.post(url(gone, action), {"fence": fence, "answer": "fake", "hours": "1"})
        assert empty.status_code == 404 and "What you wrote" not in empty.text


def test_what_another_works_on_is_shown_and_not_given(anna: Browser, tenant: Tenant, bert: Person) -> None:
    case_id = review_case(tenant)
    with transaction() as session:
        fence = claims.claim(session, bert, case_id).fence
    assert "bert@example.com" in anna.get(url(case_id)).text
    assert anna.post(url(case_id, "claim")).location == url(case_id)
    refused = anna.post(url(case_id, "claim"), headers={"Accept": "application/json"})
    assert refused.status_code == 409 and "bert@example.com" in refused.json["detail"]
    for action in ("heartbeat", "answer", "skip", "hold", "escalate", "reassign"):
        data = {"fence": fence, "answer": "fake", "hours": 1, "to": str(bert.user_id)}
        assert anna.post(url(case_id, action), data).status_code == 409, action
    assert anna.post(url(case_id, "release"), {"fence": fence}).status_code == 204
    with transaction() as session:
        assert session.scalars(select(Claim)).one().ended_at is None


def test_a_heartbeat_keeps_and_a_farewell_frees(anna: Browser, tenant: Tenant, bert: Person) -> None:
    case_id = review_case(tenant)
    fence = claimed(anna, case_id)
    expire(case_id)
    assert anna.post(url(case_id, "heartbeat"), {"fence": fence}).status_code == 204
    with transaction() as session:
        assert not session.scalar(select(claims._EXPIRED))
    assert anna.post(url(case_id, "release"), {"fence": fence}).status_code == 204
    lost = anna.post(url(case_id, "heartbeat"), {"fence": fence})
    assert lost.status_code == 409 and "no longer hold" in lost.json["detail"]
    with transaction() as session:
        claims.claim(session, bert, case_id)


def test_of_a_blind_case_nothing_of_the_verdict_is_sent_before_the_answer(anna: Browser, tenant: Tenant) -> None:
    case_id = review_case(tenant, blind=True, score=0.7389)
    review_case(tenant)
    traces = re.compile(r"(?<![\d.])0\.7[34]|six fingers|policy version|zone-fake")
    for page in (anna.get(url(case_id)).text, anna.get("/dashboard/queue").text):
        assert not traces.search(page)
    fence = claimed(anna, case_id)
    page = anna.get(url(case_id)).text
    assert "Blind first" in page and not traces.search(page)
    answer = anna.post(url(case_id, "answer"), {"fence": fence, "answer": "real", "grade-0": "right"})
    assert answer.location == f"{url(case_id)}?undo={case_id}", "first to what the model said"
    page = anna.get(answer.location).text
    assert "0.739" in page and "six fingers" in page and "the model says otherwise" in page and "Next case" in page
    with transaction() as session:
        review = session.scalars(select(Review)).one()
        assert review.blind and review.sentences == []


@pytest.mark.parametrize(
    ("action", "data", "end", "said"),
    [
        ("skip", {}, ClaimEnd.SKIPPED, "case_skipped"),
        ("hold", {"hours": "24"}, ClaimEnd.HELD, "case_held"),
        ("escalate", {}, ClaimEnd.ESCALATED, "case_escalated"),
    ],
)
def test_other_ways_on(
    anna: Browser, tenant: Tenant, action: str, data: dict[str, str], end: ClaimEnd, said: str
) -> None:
    case_id = review_case(tenant)
    answer = anna.post(url(case_id, action), {"fence": claimed(anna, case_id), **data})
    assert answer.location == f"/dashboard/queue?said={said}"
    with transaction() as session:
        assert session.scalars(select(Claim)).one().end is end


def test_handing_on_to_a_colleague_from_the_list(anna: Browser, tenant: Tenant, bert: Person) -> None:
    case_id = review_case(tenant)
    fence = claimed(anna, case_id)
    assert f'<option value="{bert.user_id}">bert@example.com' in anna.get(url(case_id)).text
    anna.post(url(case_id, "reassign"), {"fence": fence, "to": str(bert.user_id)})
    assert row(case_id).assigned_to == bert.user_id
    assert "for somebody else to answer" in anna.get(url(case_id)).text


@pytest.mark.parametrize(
    ("action", "data"),
    [
        ("answer", {"answer": "maybe"}),
        ("answer", {"answer": "fake", "artifact": "vibes"}),
        ("answer", {"answer": "fake", "grade-0": "meh"}),
        ("answer", {"answer": "fake", "note": "x" * 4001}),
        ("answer", {"answer": "fake", "fence": "x"}),
        ("hold", {"hours": "9999"}),
        ("hold", {}),
        ("reassign", {}),
        ("reassign", {"to": "x"}),
        ("skip", {"fence": ""}),
    ],
)
def test_what_no_form_of_ours_says_is_refused(anna: Browser, tenant: Tenant, action: str, data: dict[str, str]) -> None:
    case_id = review_case(tenant)
    fence = claimed(anna, case_id)
    assert anna.post(url(case_id, action), {"fence": fence, **data}).status_code == 400
    with transaction() as session:
        assert session.scalars(select(Claim)).one().ended_at is None


def test_strangers_and_moderators_of_restricted_cases_find_nothing(
    anna: Browser, tenant: Tenant, browser_of: Callable[..., Browser]
) -> None:
    with transaction() as session:
        restricted = make_review_case(session, tenant)
        restricted.restricted = True
        other = make_tenant(session, "Fotoforum")
        theirs = make_review_case(session, other)
    actions = ("claim", "heartbeat", "release", "answer", "undo", "skip", "hold", "escalate", "reassign")
    actions += ("report", "lift")
    data = {"fence": 1, "answer": "fake", "hours": 1, "to": str(tenant.id)}
    for case in (restricted, theirs):
        for path in (url(case.id), url(case.id, "rendition")):
            assert anna.get(path).status_code == 404
        for action in actions:
            assert anna.post(url(case.id, action), data).status_code == 404, action
        assert row(case.id).sequence == case.sequence
    assert browser_of(Role.LEAD).get(url(restricted.id)).status_code == 200


def test_nothing_is_changed_without_the_forms_token(anna: Browser, tenant: Tenant) -> None:
    case_id = review_case(tenant)
    for action in ("claim", "heartbeat", "release", "answer", "undo", "skip", "hold", "escalate", "reassign"):
        assert anna.http.post(url(case_id, action), data={"fence": 1}).status_code == 403, action
    assert anna.http.post("/dashboard/queue/next").status_code == 403


def test_the_picture_is_the_rendition_kept_by_nobody(
    anna: Browser, tenant: Tenant, bucket: str, browser_of: Callable[..., Browser]
) -> None:
    case_id, store = review_case(tenant), Storage(settings())
    image_id = row(case_id).image_id
    assert image_id is not None
    assert anna.get(url(case_id, "rendition")).status_code == 404
    assert "telltale renditions" in anna.get(url(case_id)).text
    exhibit(store, image_id, Pixels.new("RGB", (20, 10)))
    answer = anna.get(url(case_id, "rendition"))
    assert (answer.status_code, answer.mimetype) == (200, "image/jpeg")
    assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert url(case_id, "rendition") in anna.get(url(case_id)).text
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
    stranger = browser_of(Role.ADMIN, other)
    with transaction() as session:
        erasure.erase(session, tenant.id, image_id, actor="test", request_id=None)
    assert stranger.get(url(case_id, "rendition")).status_code == 404
    assert anna.get(url(case_id, "rendition")).status_code == 404
    assert "The image was erased" in anna.get(url(case_id)).text


def test_the_history_says_who_did_what(anna: Browser, tenant: Tenant) -> None:
    case_id = review_case(tenant)
    claimed(anna, case_id)
    page = anna.get(url(case_id)).text
    assert anna.user is not None
    assert f"<b>{anna.user.email}</b> began to review it" in page
    assert "<b>policy</b> sent it to review" in page


def test_every_event_of_a_case_has_words(anna: Browser, tenant: Tenant) -> None:
    from api.dashboard.cases import HISTORY

    with transaction() as session:
        make_case(session, tenant, CaseStatus.FAILED)
        of_cases = set(session.scalars(select(Event.type).where(Event.case_id.is_not(None))))
    assert of_cases <= set(HISTORY)


@pytest.mark.parametrize("status", [CaseStatus.QUEUED, CaseStatus.FETCHING, CaseStatus.FAILED, CaseStatus.DECIDED])
def test_cases_in_any_status_can_be_looked_at(anna: Browser, tenant: Tenant, status: CaseStatus) -> None:
    with transaction() as session:
        case = make_case(session, tenant, status)
    page = anna.get(url(case.id))
    assert page.status_code == 200 and "nothing to answer" in page.text
