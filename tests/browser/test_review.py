"""Reviewing as moderators do it: by keyboard, in real Chromium, alone and against each other."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import median
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import func, select, update

from infra.services import wait_until
from moderation import claims
from moderation.accounts import Person
from moderation.db import transaction
from moderation.tables import Case, Claim, Review, SignIn
from moderation.vocabulary import Answer, ClaimEnd, Grade, Label, Role
from tests.browser.conftest import PASSWORD, TIMEOUT_MS, Dashboard, fill_in, tenant_named
from tests.browser.moderating import (
    ANNA,
    BERT,
    QUEUE,
    Look,
    answers,
    at_work,
    heading,
    person,
    review_case,
    settle,
    typed,
)
from tests.reviewing import LONG_AGO, SENTENCES, make_person

# What the tests press for the nth case, and what is stored for it.
KEYS = (("f", Answer.FAKE, Label.FAKE), ("r", Answer.REAL, Label.REAL), ("u", Answer.CANNOT_TELL, None))
GRADES = (Grade.RIGHT, Grade.WRONG, Grade.UNCLEAR)


# From the answer's key to the next case's picture, across the two pages; the tests' only clock that knows both.
WATCH = """
    const keep = (name) => localStorage.setItem(name, Date.now());
    document.addEventListener("keydown", () => keep("pressed"), true);
    document.addEventListener("load", (event) => event.target.matches?.("[data-image]") && keep("seen"), true);
"""
TOOK = "Number(localStorage.getItem('seen')) - Number(localStorage.getItem('pressed'))"


@pytest.mark.usefixtures("bucket")
def test_twenty_cases_by_keyboard_only(dashboard: Dashboard, record_property: Callable[[str, float], None]) -> None:
    person(dashboard, ANNA)
    names = [f"post-{n}" for n in range(20)]
    ids = [review_case(name, score=0.5 + n / 100, picture=n) for n, name in enumerate(names)]
    page = at_work(dashboard, ANNA, "post-0")
    page.add_init_script(WATCH)
    took = []
    for n, following in enumerate([*names[1:], "Queue"]):
        # Another first grade each time, and of every fifth case all that there is to say.
        for key in (str(1 + n % 3), "2", "3"):
            page.keyboard.press(key)
        if n % 5 == 0:
            page.keyboard.press("ArrowUp")
            typed(page, "e", "Light is odd; real fun")
            typed(page, "a", f"The ear is missing {n}.")
            typed(page, "n", "seen before, fake again")
            page.keyboard.press("d")
        page.keyboard.press("t")
        page.keyboard.press("Space")
        page.keyboard.press(KEYS[n % 3][0])
        heading(page, following)
        if following != "Queue":
            wait_until(lambda: page.evaluate(TOOK) > 0, "every next picture", TIMEOUT_MS / 1000)
            took.append(page.evaluate(TOOK))
    assert len(took) == 19
    record_property("ms_from_key_to_next_picture_p50", median(took))
    with transaction() as session:
        found = session.scalars(select(Review).order_by(Review.id)).all()
        for n, (case_id, review) in enumerate(zip(ids, found, strict=True)):
            all_said = n % 5 == 0
            assert (review.case_id, review.answer, review.blind) == (case_id, KEYS[n % 3][1], False)
            assert (review.artifacts, review.disturbing) == (["texture"], all_said)
            assert review.note == ("seen before, fake again" if all_said else None)
            assert [(s.said, s.grade, s.written) for s in review.sentences] == [
                (SENTENCES[0], GRADES[n % 3], None),
                (SENTENCES[1], Grade.WRONG, "Light is odd; real fun" if all_said else None),
                (SENTENCES[2], Grade.UNCLEAR, None),
                *([(None, None, f"The ear is missing {n}.")] if all_said else []),
            ]
        assert {claim.end for claim in session.scalars(select(Claim))} == {ClaimEnd.ANSWERED}
    assert [settle(case_id).label for case_id in ids] == [KEYS[n % 3][2] for n in range(20)]


def test_enter_in_a_field_answers_nothing(dashboard: Dashboard) -> None:
    person(dashboard, ANNA)
    review_case("only")
    page = at_work(dashboard, ANNA, "only")
    page.keyboard.press("e")
    page.keyboard.type("Light is odd")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    heading(page, "only")
    assert answers() == []


def test_undo_within_ten_seconds_by_its_key(dashboard: Dashboard) -> None:
    person(dashboard, ANNA)
    first = review_case("first", score=0.5)
    review_case("second")
    page = at_work(dashboard, ANNA, "first")
    page.keyboard.press("n")
    page.keyboard.type("a slip")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    heading(page, "second")
    page.keyboard.press("z")
    heading(page, "first")
    expect(page.get_by_label("Note")).to_have_value("a slip")
    page.keyboard.press("r")
    heading(page, "second")
    assert settle(first).label is Label.REAL


def test_two_moderators_at_once_get_different_cases(dashboard: Dashboard) -> None:
    person(dashboard, ANNA)
    person(dashboard, BERT)
    for n in range(2):
        review_case(f"post-{n}", score=0.5 + n / 100)
    anna, bert = (dashboard.sign_in(email, QUEUE) for email in (ANNA, BERT))
    for page in (anna, bert):
        heading(page, "Queue")
    anna.keyboard.press("Enter")
    heading(anna, "post-0")
    bert.keyboard.press("Enter")
    heading(bert, "post-1")
    bert.goto(QUEUE)
    expect(bert.get_by_role("row", name="post-0")).to_contain_text(ANNA)
    bert.get_by_role("link", name="post-0").click()
    expect(bert.get_by_text(f"{ANNA} is at work on it.")).to_be_visible()
    expect(bert.get_by_role("button", name="Real")).to_have_count(0)


def test_leaving_the_page_gives_the_case_back_and_reloading_it_does_not(dashboard: Dashboard) -> None:
    person(dashboard, ANNA)
    case_id = review_case("post")
    page = at_work(dashboard, ANNA, "post")
    page.reload()
    heading(page, "post")
    expect(page.get_by_role("button", name="Real")).to_be_visible()
    wait_until(lambda: is_held_anew(page, case_id), "a case that is taken again", TIMEOUT_MS / 1000)
    with page.expect_response("**/heartbeat") as beat:
        pass
    assert beat.value.status == 204
    expect(page.get_by_role("alert")).to_be_hidden()
    page.keyboard.press("q")
    heading(page, "Queue")
    expect(page.get_by_role("row", name="post")).to_contain_text("nobody")
    with transaction() as session:
        ends = session.scalars(select(Claim.end).where(Claim.case_id == case_id)).all()
        assert set(ends) == {ClaimEnd.RELEASED}


def is_held_anew(page: Page, case_id: UUID) -> bool:
    """Whether the page before this one has said good-bye, and this one has the case again."""
    with transaction() as session:
        found = session.scalars(select(Claim).where(Claim.case_id == case_id).order_by(Claim.fence)).all()
    fence = page.locator("input[name=fence]").first.input_value()
    return [(claim.end, str(claim.fence) == fence) for claim in found] == [(ClaimEnd.RELEASED, False), (None, True)]


def make_bert() -> Person:
    with transaction() as session:
        return make_person(session, tenant_named(session, "Pixelgram"), email=BERT)


def taken_over(case_id: UUID, bert: Person) -> int:
    """Its claim ran out, and Bert has it; both at once, for the page that has it goes on saying so."""
    with transaction() as session:
        session.execute(update(Claim).where(Claim.case_id == case_id).values(lease_until=func.now() - LONG_AGO))
        return claims.claim(session, bert, case_id).fence


def test_a_lost_lease_and_a_late_answer_lose_nothing_that_was_typed(dashboard: Dashboard, look: Look) -> None:
    person(dashboard, ANNA)
    case_id, bert = review_case("post"), make_bert()
    page = at_work(dashboard, ANNA, "post")
    for key in ("2", "n"):
        page.keyboard.press(key)
    page.keyboard.type("my long thoughts")
    page.keyboard.press("Escape")
    fence = taken_over(case_id, bert)
    page.keyboard.press("f")
    lost = page.get_by_role("alert")
    expect(lost).to_contain_text(f"You no longer hold this case; {BERT} has it now.")
    expect(page.get_by_label("Note")).to_have_value("my long thoughts")
    assert answers() == []
    look(page, "case-late")
    page.get_by_role("button", name="Take it again").click()
    expect(lost).to_contain_text(f"{BERT} is at work on this case.")
    with transaction() as session:
        claims.release(session, bert, case_id, fence)
    page.get_by_role("button", name="Take it again").click()
    expect(lost).to_be_hidden()
    expect(page.get_by_label("Note")).to_have_value("my long thoughts")
    page.locator("body").press("f")
    heading(page, "Queue")
    with transaction() as session:
        review = session.scalars(select(Review)).one()
        assert (review.note, review.sentences[0].grade) == ("my long thoughts", Grade.WRONG)


def test_a_sign_in_that_ends_loses_nothing_that_was_typed(dashboard: Dashboard, look: Look) -> None:
    person(dashboard, ANNA)
    review_case("post")
    page = at_work(dashboard, ANNA, "post")
    typed(page, "n", "my long thoughts")
    with transaction() as session:
        session.execute(update(SignIn).values(expires_at=func.now()))
    lost = page.get_by_role("alert")
    expect(lost).to_contain_text("You are signed out: sign in in another tab")
    look(page, "case-signed-out")
    page.get_by_role("button", name="Take it again").click()
    expect(lost).to_contain_text("You are signed out")
    other = page.context.new_page()
    other.goto("/dashboard/sign-in")
    fill_in(other, ANNA, PASSWORD)
    other.wait_for_url(lambda url: "/sign-in" not in url)
    expect(lost).to_be_hidden()
    expect(page.get_by_label("Note")).to_have_value("my long thoughts")
    page.locator("body").press("f")
    heading(page, "Queue")
    with transaction() as session:
        assert session.scalars(select(Review.note)).one() == "my long thoughts"


@pytest.mark.parametrize(("keys", "button"), [("s", None), ("l", None), ("h", "Put aside"), ("m", "Hand on")])
def test_whatever_comes_too_late_loses_nothing_that_was_typed(
    dashboard: Dashboard, keys: str, button: str | None
) -> None:
    person(dashboard, ANNA)
    case_id, bert = review_case("post"), make_bert()
    page = at_work(dashboard, ANNA, "post")
    typed(page, "n", "my long thoughts")
    taken_over(case_id, bert)
    page.keyboard.press(keys)
    if button:
        page.get_by_role("dialog").get_by_role("button", name=button).click()
    expect(page.get_by_role("alert")).to_contain_text(f"You no longer hold this case; {BERT} has it now.")
    expect(page.get_by_label("Note")).to_have_value("my long thoughts")


def test_blind_first_shows_the_verdict_only_after_the_answer(dashboard: Dashboard, look: Look) -> None:
    person(dashboard, ANNA)
    review_case("blind", blind=True, score=0.7389)
    review_case("after", score=0.8)
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    assert "0.74" not in page.locator("main").inner_text()
    page.get_by_role("link", name="blind").click()
    heading(page, "blind")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Blind first.")).to_be_visible()
    expect(page.get_by_role("button", name="Real")).to_be_visible()
    heading(page, "blind")
    # As a number of its own: ids, tokens and icons have such digits too.
    assert not re.search(r"(?<!\d)0\.7[34]", page.content())
    look(page, "case-blind")
    page.keyboard.press("r")
    expect(page.get_by_text("the model says otherwise")).to_be_visible()
    expect(page.get_by_text("0.739")).to_be_visible()
    page.keyboard.press("Enter")
    heading(page, "after")
    with transaction() as session:
        assert session.scalars(select(Review)).one().blind


def test_keys_are_shown_and_can_be_switched_off(dashboard: Dashboard, look: Look) -> None:
    person(dashboard, ANNA)
    review_case("post")
    page = at_work(dashboard, ANNA, "post")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    look(page, "case-keys")
    page.get_by_label("Single keys do something").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert answers() == []


@pytest.mark.usefixtures("bucket")
def test_queue_and_case_page_look_right(dashboard: Dashboard, look: Look) -> None:
    person(dashboard, ANNA)
    dashboard.person(BERT, Pixelgram=Role.MODERATOR)
    for n in range(9):
        case_id = review_case(f"upload-{4711 + n}", score=0.2 + n * 0.07, picture=n % 8, blind=n == 3)
        with transaction() as session:
            case = session.get_one(Case, case_id)
            case.priority = (1, 1, 2, 1, 3, 0, 1, 1, 1)[n]
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    page.keyboard.press("Enter")
    heading(page, "upload-4715")
    for key in ("1", "2", "b", "g"):
        page.keyboard.press(key)
    # Polled from outside the page, whose policy evaluates no strings.
    expect(page.locator(".picture img")).to_have_js_property("complete", True)
    look(page, "case")
    page.keyboard.press("f")
    expect(page.locator("[data-undo]")).to_be_visible()
    look(page, "case-next")
