"""Signing in and out, as people do it: through the form, in a browser."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from moderation.vocabulary import Role
from tests.browser.conftest import Dashboard

EMAIL = "mona@platform.example"


def test_signing_in_leads_to_the_overview(dashboard: Dashboard, look: Callable[[Page, str], None]) -> None:
    dashboard.person(EMAIL, Pixelgram=Role.LEAD, Fotoforum=Role.MODERATOR)
    page = dashboard.visit()
    look(page, "sign-in")
    page = dashboard.sign_in(EMAIL)
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(page.get_by_role("row", name="Pixelgram")).to_contain_text("lead")
    look(page, "overview")
