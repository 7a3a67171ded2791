"""Reviewing as moderators do it: by keyboard, in real Chromium, alone and against each other."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from PIL import Image as Pixels
from playwright.sync_api import Page, expect
from sqlalchemy import select

from infra.demo.samples import samples
from moderation import claims, renditions, reviews
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Claim, Review, User
from moderation.vocabulary import Answer, ClaimEnd, Grade, Label, Role
from tests.browser.conftest import Dashboard, tenant_named
from tests.reviewing import SENTENCES, expire, make_person, make_review_case, ten_seconds_later

ANNA, BERT = "anna@pixelgram.example", "bert@pixelgram.example"
QUEUE = "/dashboard/queue"
Look = Callable[[Page, str], None]


def person(dashboard: Dashboard, email: str, role: Role = Role.MODERATOR) -> User:
    return dashboard.person(email, Pixelgram=role)


def review_case(name: str, *, blind: bool = False, score: float = 0.62, picture: int | None = None) -> UUID:
    """A case of Pixelgram's in review; with a picture of the samples where a number is given."""
    with transaction() as session:
        case = make_review_case(session, tenant_named(session, "Pixelgram"), blind=blind, score=score, external_id=name)
        case_id, image_id = case.id, case.image_id
    if picture is not None:
        assert image_id is not None
        with Pixels.open(samples()[picture].path) as opened:
            renditions.keep(Storage(settings()), image_id, opened.convert("RGB"))
    return case_id


def row(case_id: UUID) -> Case:
    with transaction() as session:
        return session.get_one(Case, case_id)


def answers() -> list[Answer]:
    with transaction() as session:
        return [review.answer for review in session.scalars(select(Review).order_by(Review.id))]


def heading(page: Page, name: str) -> None:
    """The page of this name has come, and listens to its keys."""
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page.locator("body[data-keys=ready]")).to_be_attached()


def test_five_cases_by_keyboard_only(dashboard: Dashboard, bucket: str) -> None:
    person(dashboard, ANNA)
    ids = [review_case(f"post-{n}", score=0.5 + n / 100, picture=n) for n in range(5)]
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    expect(page.locator("[data-totals]")).to_contain_text("5 cases wait")
    page.keyboard.press("Enter")
    heading(page, "post-0")
    # Grade every sentence, rewrite one, name an artifact, add a sentence and a note: all without the mouse.
    for key in ("1", "2", "3", "ArrowUp", "e"):
        page.keyboard.press(key)
    page.keyboard.type("Light is odd; real fun")
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    page.keyboard.press("Space")
    page.keyboard.press("a")
    page.keyboard.type("The ear is missing.")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.keyboard.type("seen before, fake again")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    heading(page, "post-1")
    expect(page.locator("[data-undo]")).to_contain_text("Answered fake")
    for key, following in (("r", "post-2"), ("u", "post-3"), ("f", "post-4"), ("r", "Queue")):
        page.keyboard.press(key)
        heading(page, following)
    assert answers() == [Answer.FAKE, Answer.REAL, Answer.CANNOT_TELL, Answer.FAKE, Answer.REAL]
    with transaction() as session:
        first = session.scalars(select(Review).where(Review.case_id == ids[0])).one()
        assert (first.artifacts, first.note) == (["texture"], "seen before, fake again")
        assert [(s.said, s.grade, s.written) for s in first.sentences] == [
            (SENTENCES[0], Grade.RIGHT, None),
            (SENTENCES[1], Grade.WRONG, "Light is odd; real fun"),
            (SENTENCES[2], Grade.UNCLEAR, None),
            (None, None, "The ear is missing."),
        ]
    for case_id in ids:
        ten_seconds_later(case_id)
        reviews.settle(case_id)
    assert [row(case_id).label for case_id in ids] == [Label.FAKE, Label.REAL, None, Label.FAKE, Label.REAL]


def test_enter_in_a_field_answers_nothing(dashboard: Dashboard) -> None:
    person(dashboard, ANNA)
    review_case("only")
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    page.keyboard.press("Enter")
    heading(page, "only")
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
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    page.keyboard.press("Enter")
    heading(page, "first")
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
    ten_seconds_later(first)
    reviews.settle(first)
    assert row(first).label is Label.REAL


def test_two_moderators_at_once_get_different_cases(dashboard: Dashboard) -> None:
    person(dashboard, ANNA)
    person(dashboard, BERT)
    for n in range(2):
        review_case(f"post-{n}", score=0.5 + n / 100)
    anna, bert = (dashboard.sign_in(email, QUEUE) for email in (ANNA, BERT))
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
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    page.keyboard.press("Enter")
    heading(page, "post")
    page.reload()
    heading(page, "post")
    expect(page.get_by_role("button", name="Real")).to_be_visible()
    with page.expect_response("**/heartbeat"):  # the first
        pass
    with page.expect_response("**/heartbeat") as second:
        pass
    assert second.value.status == 204
    expect(page.get_by_role("alert")).to_be_hidden()
    with transaction() as session:
        held = claims.live(session, case_id)
        assert held is not None and page.locator("input[name=fence]").first.input_value() == str(held.fence)
    page.keyboard.press("q")
    heading(page, "Queue")
    expect(page.get_by_role("row", name="post")).to_contain_text("nobody")
    with transaction() as session:
        ends = session.scalars(select(Claim.end).where(Claim.case_id == case_id)).all()
        assert set(ends) == {ClaimEnd.RELEASED}


def test_a_lost_lease_and_a_late_answer_lose_nothing_that_was_typed(
    dashboard: Dashboard, look: Callable[[Page, str], None]
) -> None:
    person(dashboard, ANNA)
    case_id = review_case("post")
    with transaction() as session:
        bert = make_person(session, tenant_named(session, "Pixelgram"), email=BERT)
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    page.keyboard.press("Enter")
    heading(page, "post")
    for key in ("2", "n"):
        page.keyboard.press(key)
    page.keyboard.type("my long thoughts")
    page.keyboard.press("Escape")
    expire(case_id)
    with transaction() as session:
        fence = claims.claim(session, bert, case_id).fence
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


def test_blind_first_shows_the_verdict_only_after_the_answer(
    dashboard: Dashboard, look: Callable[[Page, str], None]
) -> None:
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
    assert "739" not in page.content().replace(str(page.url), "")
    look(page, "case-blind")
    page.keyboard.press("r")
    expect(page.get_by_text("the model says otherwise")).to_be_visible()
    expect(page.get_by_text("0.739")).to_be_visible()
    page.keyboard.press("Enter")
    heading(page, "after")
    with transaction() as session:
        assert session.scalars(select(Review)).one().blind


def test_the_picture_is_veiled_until_one_says_otherwise(dashboard: Dashboard, bucket: str) -> None:
    person(dashboard, ANNA)
    review_case("one", score=0.5, picture=0)
    review_case("two", picture=1)
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    page.keyboard.press("Enter")
    heading(page, "one")
    picture = page.get_by_alt_text("The image to be judged")
    expect(picture).to_have_css("filter", "blur(24px) grayscale(1)")
    page.keyboard.down("v")
    expect(picture).to_have_css("filter", "none")
    page.keyboard.up("v")
    expect(picture).to_have_css("filter", "blur(24px) grayscale(1)")
    page.keyboard.press("b")
    expect(picture).to_have_css("filter", "grayscale(1)")
    page.keyboard.press("r")
    heading(page, "two")
    expect(picture).to_have_css("filter", "grayscale(1)")
    page.keyboard.press("g")
    expect(picture).to_have_css("filter", "none")
    assert picture.evaluate("image => image.naturalWidth") > 0


def test_keys_are_shown_and_can_be_switched_off(dashboard: Dashboard, look: Look) -> None:
    person(dashboard, ANNA)
    review_case("post")
    page = dashboard.sign_in(ANNA, QUEUE)
    heading(page, "Queue")
    page.keyboard.press("Enter")
    heading(page, "post")
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
    look(page, "queue")
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
