"""Retention as an administrator sets it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from moderation.vocabulary import Role
from tests.browser.conftest import Dashboard

ADA = "ada@pixelgram.example"


def test_how_long_data_is_kept_is_set(dashboard: Dashboard, look: Callable[[Page, str], None]) -> None:
    dashboard.person(ADA, Pixelgram=Role.ADMIN)
    page = dashboard.sign_in(ADA)
    page.get_by_role("link", name="Platforms").click()
    page.get_by_role("main").get_by_role("link", name="Pixelgram").click()
    page.get_by_label("Images", exact=True).fill("30")
    page.get_by_label("Appeals", exact=True).fill("183")
    page.get_by_role("button", name="Set retention").click()
    expect(page.get_by_text("nobody could look into a late appeal")).to_be_visible()
    page.get_by_label("Images", exact=True).fill("190")
    page.get_by_label("Verdicts", exact=True).fill("365")
    page.get_by_role("button", name="Set retention").click()
    expect(page.get_by_role("status")).to_contain_text("what is too old goes within a day")
    expect(page.get_by_label("Images", exact=True)).to_have_value("190")
    page.get_by_role("status").get_by_role("button").click()
    page.get_by_label("Appeals", exact=True).scroll_into_view_if_needed()
    look(page, "platform-retention")
    page.get_by_role("link", name="Every pass that removed something").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Audit log")
