"""What is hidden from whoever answers a case is nowhere on its page.

Two cases that differ in nothing but what is hidden must give the same page, to the letter, once ids and times are taken
out of it: whatever told them apart would tell the decision.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from moderation import appeals, cases, claims, reviews, screening
from moderation.accounts import Person
from moderation.db import engine, transaction
from moderation.reviews import Reply
from moderation.settings import settings
from moderation.tables import Case, Image, SimilarImage, Tenant
from moderation.vocabulary import Answer, Artifact, CaseStatus, Label, ReviewReason, Role
from tests.api.dashboard.conftest import Browser
from tests.factories import (
    champion_or_new,
    make_case,
    make_endpoint,
    make_image,
    make_reading,
    make_verdict,
    make_version,
)
from tests.reviewing import TEXT, make_person, make_review_case, ten_seconds_later

CHANGING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{64}"
    r"|<time .*?</time>|(?<=name=\"fence\" value=\")\d+|\d+ bytes|\d+ Bytes|\?v=\w+"
)


@pytest.fixture
def anna(browser_of: Callable[..., Browser]) -> Browser:
    return browser_of(Role.MODERATOR)


@pytest.fixture(autouse=True)
def everything_is_looked_at_again(tenant: Tenant) -> None:
    with transaction() as session:
        row = session.get_one(Tenant, tenant.id)
        row.audit_share = row.second_opinion_share = 1.0
        row.blind_share = 0.0


def url(case_id: UUID, action: str = "") -> str:
    return f"/dashboard/cases/{case_id}{action and '/' + action}"


def shown(browser: Browser, case_id: UUID) -> list[str]:
    """Everything that this person's browser is sent of a case: before, while and after they have claimed it."""
    pages = [browser.get(url(case_id)).text]
    fence = browser.post(url(case_id, "claim"), headers={"Accept": "application/json"})
    assert fence.status_code == 200, fence.text
    pages += [fence.text.replace(str(fence.json["fence"]), "")]
    pages += [browser.get(path).text for path in (url(case_id), "/dashboard/queue", "/dashboard/appeals")]
    browser.post(url(case_id, "skip"), {"fence": fence.json["fence"]})
    return [CHANGING.sub("…", page) for page in pages]


def screened(tenant: Tenant, p_fake: float) -> UUID:
    """Decided by the policy, and audited."""
    with transaction() as session:
        version = champion_or_new(session)
        case = make_case(session, tenant, external_id="the same")
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    words = TEXT if p_fake > 0.5 else "This is a real image. The grain is even."
    screening.finish(job, make_reading(p_fake, explanation=words), version.id)
    return case.id


def answered(tenant: Tenant, who: Person, answer: Answer, *, blind: bool = False) -> UUID:
    """Decided by a person, and asked of somebody else."""
    with transaction() as session:
        case_id = make_review_case(session, tenant, blind=blind, external_id="the same").id
        fence = claims.claim(session, who, case_id).fence
        more = {Answer.FAKE: frozenset({Artifact.ANATOMY}), Answer.REAL: frozenset[Artifact]()}[answer]
        reviews.answer(session, who, case_id, fence, Reply(answer, more, note=f"my secret {answer}"))
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    return case_id


def appeal(tenant: Tenant, case_id: UUID) -> UUID:
    with transaction() as session:
        appeals.file(session, tenant.id, case_id, actor="api_key:1", message="It is mine.")
    return case_id


def gone(case_id: UUID) -> None:
    """Out of the queue, where two at once would differ in their order."""
    with transaction() as session:
        case = session.get_one(Case, case_id)
        cases.rule(session, case, Label.REAL, actor="test", review_id=case_id)


def test_audits_of_real_and_fake_look_the_same(anna: Browser, tenant: Tenant) -> None:
    pages = []
    for p_fake in (0.02, 0.9876):
        case_id = screened(tenant, p_fake)
        pages.append(shown(anna, case_id))
        gone(case_id)
    assert pages[0] == pages[1]
    assert "<b>Audit.</b>" in pages[0][0] and "the same" in pages[0][0]


def test_appeals_look_the_same_whoever_decided_whatever(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        people = [make_person(session, tenant, email=f"secret{n}@example.com") for n in range(2)]
    pages = []
    makers: list[Callable[[], UUID]] = [
        lambda: screened(tenant, 0.02),
        lambda: screened(tenant, 0.9876),
        lambda: answered(tenant, people[0], Answer.REAL),
        lambda: answered(tenant, people[1], Answer.FAKE, blind=True),
    ]
    for make in makers:
        case_id = appeal(tenant, make())
        pages.append(shown(anna, case_id))
        gone(case_id)
    for page in pages[1:]:
        assert page == pages[0]
    assert "<b>Appeal.</b>" in pages[0][0] and "It is mine." in pages[0][0] and "secret" not in "".join(pages[0])


@pytest.mark.parametrize("blind", [False, True])
def test_second_opinions_look_the_same_whatever_the_first_was(anna: Browser, tenant: Tenant, blind: bool) -> None:
    with transaction() as session:
        people = [make_person(session, tenant, email=f"secret{n}@example.com") for n in range(2)]
    pages = []
    for who, answer in zip(people, (Answer.REAL, Answer.FAKE), strict=True):
        case_id = answered(tenant, who, answer, blind=blind)
        pages.append(shown(anna, case_id))
        gone(case_id)
    assert pages[0] == pages[1]
    assert "<b>Second opinion.</b>" in pages[0][0] and "secret" not in "".join(pages[0])
    assert ("six fingers" in pages[0][0]) is not blind


def test_it_is_shown_when_the_answer_has_taken_effect_and_not_before(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        bert = make_person(session, tenant, email="bert@example.com")
    case_id = answered(tenant, bert, Answer.FAKE, blind=True)
    fence = anna.post(url(case_id, "claim"), headers={"Accept": "application/json"}).json["fence"]
    sent = anna.post(url(case_id, "answer"), {"fence": fence, "answer": "fake"})
    assert sent.location == f"/dashboard/queue?undo={case_id}", "straight to what is next"
    page = anna.get(url(case_id)).text
    assert "when your answer has taken effect" in page and "bert@example.com" not in page and "0.500" not in page
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    page = anna.get(url(case_id)).text
    assert all(words in page for words in ("bert@example.com", "my secret fake", "0.500", "agreed with the decision"))


def test_a_lead_sees_both_answers_of_two_who_do_not_agree(
    anna: Browser, tenant: Tenant, browser_of: Callable[..., Browser]
) -> None:
    with transaction() as session:
        bert = make_person(session, tenant, email="bert@example.com")
    case_id = answered(tenant, bert, Answer.FAKE)
    fence = anna.post(url(case_id, "claim"), headers={"Accept": "application/json"}).json["fence"]
    anna.post(url(case_id, "answer"), {"fence": fence, "answer": "real"})
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    page = browser_of(Role.LEAD).get(url(case_id)).text
    assert "Two moderators did not agree" in page and "my secret fake" in page
    assert anna.user is not None and page.count(anna.user.email) >= 2 and "Review this case" in page
    assert "This case is for a lead to answer." in anna.get(url(case_id)).text


def test_who_answered_first_is_told_that_it_is_somebody_elses(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        make_person(session, tenant)
        case_id = make_review_case(session, tenant).id
    fence = anna.post(url(case_id, "claim"), headers={"Accept": "application/json"}).json["fence"]
    anna.post(url(case_id, "answer"), {"fence": fence, "answer": "real"})
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    assert "now it is somebody else&#39;s turn" in anna.get(url(case_id)).text
    refused = anna.post(url(case_id, "claim"), headers={"Accept": "application/json"})
    assert refused.status_code == 403 and "somebody else's turn" in refused.json["detail"]


def test_an_appeals_answer_may_have_a_message_and_others_may_not(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        plain = make_review_case(session, tenant).id
    appealed = appeal(tenant, screened(tenant, 0.98))
    for case_id, expected in ((plain, 400), (appealed, 303)):
        fence = anna.post(url(case_id, "claim"), headers={"Accept": "application/json"}).json["fence"]
        assert ('name="message"' in anna.get(url(case_id)).text) is (expected == 303)
        form = {"fence": fence, "answer": "real", "message": "Right you are.", "disturbing": "1"}
        assert anna.post(url(case_id, "answer"), form).status_code == expected
    with transaction() as session:
        review = session.query(reviews.Review).one()
    assert (review.message, review.disturbing, review.reason) == ("Right you are.", True, ReviewReason.APPEAL)
    anna.post(url(appealed, "undo"))
    page = anna.get(url(appealed)).text
    assert ">Right you are.</textarea>" in page and re.search(r'name="disturbing" value="1".* checked', page)


@pytest.mark.parametrize("similar", [False, True])
def test_a_search_does_not_tell_how_other_cases_of_a_blind_ones_image_ended(
    anna: Browser, tenant: Tenant, similar: bool
) -> None:
    with transaction() as session:
        decided = make_case(session, tenant, CaseStatus.DECIDED, external_id="first")
        image = session.get_one(Image, decided.image_id)
        other = make_image(session, tenant) if similar else image
        if similar:
            session.add(SimilarImage(image_id=image.id, other_id=other.id, distance=3))
        blind = make_review_case(session, tenant, blind=True)
        blind.image_id = other.id
    search = f"/dashboard/queue?q={image.sha256}"
    found = anna.get(search).text
    assert "first" in found and "decided" in found
    assert "decided: fake" not in found and not re.search(r">0\.\d\d<", found)
    gone(blind.id)
    assert "decided: fake" in anna.get(search).text


def test_statuses_of_other_cases_are_no_secret(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        case_id = make_case(session, tenant, CaseStatus.DECIDED).id
    assert "decided: fake" in anna.get(url(case_id)).text


@pytest.mark.parametrize("blind", [True, False])
def test_what_other_versions_said_is_hidden_as_long_as_the_verdict_is(
    anna: Browser, tenant: Tenant, blind: bool
) -> None:
    with transaction() as session:
        case = make_review_case(session, session.get_one(Tenant, tenant.id), blind=blind)
        make_verdict(session, case, make_version(session, "the-next-version", champion=False), 0.913)
    page = anna.get(url(case.id)).text
    assert ("the-next-version" in page, "0.913" in page) == (not blind, not blind)


def told(browser: Browser, tenant: Tenant, query: str) -> str:
    """The audit log as page and as CSV."""
    path = f"/dashboard/platforms/{tenant.id}/audit"
    return "\n".join(browser.get(f"{path}{kind}?{query}").text for kind in ("", ".csv"))


@pytest.fixture
def lea(browser_of: Callable[..., Browser]) -> Browser:
    return browser_of(Role.LEAD)


@pytest.mark.parametrize("appealed", [False, True])
def test_the_audit_log_tells_no_answer_to_who_may_give_the_next(lea: Browser, tenant: Tenant, appealed: bool) -> None:
    with transaction() as session:
        bert = make_person(session, tenant, email="bert@example.com")
    case_id = answered(tenant, bert, Answer.FAKE)
    if appealed:
        appeal(tenant, case_id)
    assert "Review this case" in lea.get(url(case_id)).text
    log = told(lea, tenant, f"case={case_id}")
    assert "decision.created" in log and "review.answered" in log and "shown when the case is answered" in log
    words = re.sub(r"<[^>]+>", " ", log.partition("<tbody>")[2])
    assert not re.search(r"\bfake\b", words) and bert.email not in words
    for query in (f"case={case_id}&actor={bert.email}", f"case={case_id}&actor=user:{bert.user_id}"):
        assert str(case_id) not in told(lea, tenant, query).rpartition("request_id,id")[2], "to find it is to be told"
    gone(case_id)
    shown_now = told(lea, tenant, f"case={case_id}").rpartition("request_id,id")[2]
    assert bert.email in shown_now and '"answer"": ""fake' in shown_now


def test_the_audit_log_tells_no_answer_that_has_not_taken_effect(lea: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        bert = make_person(session, tenant, email="bert@example.com")
        case_id = make_review_case(session, tenant, blind=True).id
        fence = claims.claim(session, bert, case_id).fence
        reviews.answer(session, bert, case_id, fence, Reply(Answer.FAKE))
        reviews.undo(session, bert, case_id)
    log = told(lea, tenant, f"case={case_id}")
    assert "review.undone" in log and '""fake""' not in log and "<dd>fake" not in log


def test_the_audit_log_of_a_page_is_read_in_as_many_queries_whatever_is_hidden(lea: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        bert = make_person(session, tenant, email="bert@example.com")

    def asked() -> int:
        asked: list[str] = []

        def note(*args: Any) -> None:
            if threading.get_ident() == here:  # and not of the bell, which rings in a thread of its own
                asked.append(args[2])

        here = threading.get_ident()
        event.listen(engine(), "before_cursor_execute", note)
        lea.get(f"/dashboard/platforms/{tenant.id}/audit")
        event.remove(engine(), "before_cursor_execute", note)
        return len(asked)

    answered(tenant, bert, Answer.FAKE)
    one = asked()
    for _ in range(3):
        answered(tenant, bert, Answer.REAL)
    assert asked() == one


def test_a_delivery_keeps_its_body_until_the_case_is_answered(ada: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        make_endpoint(session, tenant)
    case_id = screened(tenant, 0.9876)
    assert "Review this case" in ada.get(url(case_id)).text
    path = f"/dashboard/platforms/{tenant.id}/deliveries"
    links = re.findall(r"/deliveries/([0-9a-f-]{36})", ada.get(f"{path}?type=decision.created").text)
    pages = [ada.get(f"{path}/{delivery_id}").text for delivery_id in links]
    assert pages
    for page in pages:
        assert "0.9876" not in page and "p_fake" not in page and "fake image" not in page
        assert "Shown when the case is answered" in page and "webhook-id" in page
    gone(case_id)
    assert "0.9876" in ada.get(f"{path}/{links[0]}").text
