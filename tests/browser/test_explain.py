"""Asking why in real Chromium: by key, without a reload, and without losing what is typed."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from PIL import Image
from playwright.sync_api import Page, expect

from infra.demo.samples import samples
from moderation import explanations
from moderation.db import transaction
from moderation.explanations import Words
from moderation.settings import settings
from moderation.storage import Storage
from moderation.vocabulary import Role
from tests.browser.conftest import Dashboard, tenant_named
from tests.exhibiting import exhibit
from tests.factories import champion_or_new
from tests.reviewing import TEXT, make_review_case

ANNA = "anna@pixelgram.example"
Look = Callable[[Page, str], None]


def silent_case() -> tuple[UUID, UUID]:
    """A case in review that the policy had not explained, and its verdict."""
    with transaction() as session:
        tenant = tenant_named(session, "Pixelgram")
        case = make_review_case(session, tenant, score=0.62, text=None, external_id="post-7")
        image_id = case.image_id
    assert image_id is not None and case.verdict_id is not None
    with Image.open(samples()[0].path) as opened:
        exhibit(Storage(settings()), image_id, opened.convert("RGB"))
    return case.id, case.verdict_id


def explain(verdict_id: UUID) -> None:
    """What a worker does."""
    job = explanations.begin(verdict_id, settings())
    assert job is not None
    with transaction() as session:
        words = Words(TEXT, champion_or_new(session).id)
    explanations.finish(job, words)


def test_why_is_asked_by_key_and_its_sentences_are_graded_without_a_reload(
    dashboard: Dashboard, look: Look, bucket: str
) -> None:
    dashboard.person(ANNA, Pixelgram=Role.MODERATOR)
    case_id, verdict_id = silent_case()
    page = dashboard.sign_in(ANNA, f"/dashboard/cases/{case_id}")
    page.get_by_role("button", name="Review this case").click()
    expect(page.get_by_role("button", name="Fake")).to_be_visible()
    expect(page.locator("body[data-keys=ready]")).to_be_attached()
    page.get_by_label("Note").fill("a note that must not be lost")
    page.keyboard.press("Escape")
    look(page, "case-explain")
    page.keyboard.press("w")
    expect(page.get_by_text("The model was asked why.")).to_be_visible()
    explain(verdict_id)
    expect(page.get_by_text("The left hand has six fingers.")).to_be_visible()
    expect(page.get_by_label("Note")).to_have_value("a note that must not be lost")
    page.keyboard.press("1")
    page.keyboard.press("2")
    expect(page.locator("input[name=grade-0][value=right]")).to_be_checked()
    expect(page.locator("input[name=grade-1][value=wrong]")).to_be_checked()
    look(page, "case-explained")
    page.keyboard.press("f")
    expect(page.locator("[data-undo]")).to_contain_text("Answered fake")


def test_who_only_looks_reads_it(dashboard: Dashboard, bucket: str) -> None:
    dashboard.person(ANNA, Pixelgram=Role.MODERATOR)
    case_id, verdict_id = silent_case()
    page = dashboard.sign_in(ANNA, f"/dashboard/cases/{case_id}")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_text("The model was asked why.")).to_be_visible()
    explain(verdict_id)
    expect(page.locator("#explain")).to_contain_text("The left hand has six fingers.")
