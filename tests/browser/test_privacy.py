"""Retention as an administrator sets it, and a decision's statement of reasons as a lead downloads it."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import Page, expect

from moderation.db import transaction
from moderation.vocabulary import CaseStatus, Role
from tests.browser.conftest import Dashboard, tenant_named
from tests.browser.moderating import give_picture
from tests.factories import make_case

ADA, LENA = "ada@pixelgram.example", "lena@pixelgram.example"


def set_retention(page: Page) -> None:
    """By keyboard, and confirmed."""
    page.get_by_label("Appeals", exact=True).press("Enter")
    asked = page.get_by_role("dialog", name="Set how long data is kept?")
    expect(asked.get_by_role("button", name="Cancel")).to_be_focused()
    asked.get_by_role("button", name="Set retention").click()


def test_how_long_data_is_kept_is_set(dashboard: Dashboard, look: Callable[[Page, str], None]) -> None:
    dashboard.person(ADA, Pixelgram=Role.ADMIN)
    page = dashboard.sign_in(ADA)
    page.get_by_role("link", name="Platforms").click()
    page.get_by_role("main").get_by_role("link", name="Pixelgram").click()
    page.get_by_label("Images", exact=True).fill("0")
    page.get_by_role("button", name="Set retention").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_label("Images", exact=True)).to_be_focused()
    page.get_by_label("Images", exact=True).fill("30")
    page.get_by_label("Appeals", exact=True).fill("183")
    set_retention(page)
    expect(page.get_by_text("nobody could look into a late appeal")).to_be_visible()
    page.get_by_label("Images", exact=True).fill("190")
    page.get_by_label("Verdicts", exact=True).fill("365")
    set_retention(page)
    expect(page.get_by_role("status")).to_contain_text("what is too old goes within a day")
    expect(page.get_by_label("Images", exact=True)).to_have_value("190")
    page.get_by_role("status").get_by_role("button").click()
    page.get_by_role("link", name="Every pass that removed something").scroll_into_view_if_needed()
    look(page, "platform-retention")
    page.get_by_role("link", name="Every pass that removed something").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Audit log")


def test_a_lead_downloads_a_statement_of_reasons(dashboard: Dashboard, look: Callable[[Page, str], None]) -> None:
    dashboard.person(LENA, Pixelgram=Role.LEAD)
    with transaction() as session:
        case = make_case(session, tenant_named(session, "Pixelgram"), CaseStatus.DECIDED, external_id="holiday-4711")
    give_picture(case.id, 1)
    page = dashboard.sign_in(LENA, f"/dashboard/cases/{case.id}")
    link = page.get_by_role("link", name="Statement of reasons")
    expect(link).to_be_visible()
    look(page, "case-statement")
    with page.expect_download() as expected:
        link.click()
    assert expected.value.suggested_filename == f"statement-of-reasons-{case.id}.json"
    assert json.loads(expected.value.path().read_text())["case_id"] == str(case.id)
