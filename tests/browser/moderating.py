"""Moderators at work, for the browser tests: people of Pixelgram's, cases in review, the way from sign-in to a case."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from PIL import Image as Pixels
from playwright.sync_api import Page, expect
from sqlalchemy import select

from infra.demo.samples import samples
from moderation import reviews
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Review, User
from moderation.vocabulary import Answer, Role
from tests.browser.conftest import Dashboard, tenant_named
from tests.exhibiting import exhibit
from tests.reviewing import make_review_case, ten_seconds_later

ANNA, BERT = "anna@pixelgram.example", "bert@pixelgram.example"
QUEUE = "/dashboard/queue"
Look = Callable[[Page, str], None]


def person(dashboard: Dashboard, email: str, role: Role = Role.MODERATOR) -> User:
    """Somebody who works for Pixelgram."""
    return dashboard.person(email, Pixelgram=role)


def review_case(name: str, *, blind: bool = False, score: float = 0.62, picture: int | None = None) -> UUID:
    """A case of Pixelgram's in review; with a picture of the samples where a number is given."""
    with transaction() as session:
        case = make_review_case(session, tenant_named(session, "Pixelgram"), blind=blind, score=score, external_id=name)
        case_id = case.id
    if picture is not None:
        give_picture(case_id, picture)
    return case_id


def give_picture(case_id: UUID, number: int) -> None:
    """The case's image is this one of the samples, as browsers get it."""
    image_id = row(case_id).image_id
    assert image_id is not None
    found = samples()
    with Pixels.open(found[number % len(found)].path) as opened:
        exhibit(Storage(settings()), image_id, opened.convert("RGB"))


def row(case_id: UUID) -> Case:
    """The case as it is now."""
    with transaction() as session:
        return session.get_one(Case, case_id)


def answers() -> list[Answer]:
    """All that was answered, in its order."""
    with transaction() as session:
        return [review.answer for review in session.scalars(select(Review).order_by(Review.id))]


def settle(case_id: UUID) -> Case:
    """Ten seconds later, the answer takes effect."""
    ten_seconds_later(case_id)
    reviews.settle(case_id)
    return row(case_id)


def heading(page: Page, name: str) -> None:
    """The page of this name has come, and listens to its keys."""
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page.locator("body[data-keys=ready]")).to_be_attached()


def at_work(dashboard: Dashboard, email: str, first: str, *, path: str = QUEUE, title: str = "Queue") -> Page:
    """Signed in, and with the key for the next case on the page of the case named `first`."""
    page = dashboard.sign_in(email, path)
    heading(page, title)
    page.keyboard.press("Enter")
    heading(page, first)
    return page


def typed(page: Page, key: str, words: str) -> None:
    """Into the field that `key` leads to, and out of it again."""
    page.keyboard.press(key)
    page.keyboard.type(words)
    page.keyboard.press("Escape")
