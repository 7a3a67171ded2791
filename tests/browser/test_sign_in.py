"""Signing in and out, as people do it: through the form, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Page, expect
from sqlalchemy import func, update

from moderation import accounts
from moderation.db import transaction
from moderation.tables import Case, SignIn
from moderation.vocabulary import Role
from tests.browser.conftest import PASSWORD, TABLET, Dashboard, fill_in, lines_of, open_menu, overflow
from tests.browser.moderating import review_case

EMAIL = "mona@platform.example"
NEW_PASSWORD = "a longer staple for the horse"
Look = Callable[[Page, str], None]


def make_mona(dashboard: Dashboard) -> None:
    dashboard.person(EMAIL, Pixelgram=Role.LEAD, Fotoforum=Role.MODERATOR)


def test_signing_in_leads_to_the_overview(dashboard: Dashboard, look: Look) -> None:
    make_mona(dashboard)
    case_id = review_case("holiday-4711")
    with transaction() as session:
        session.get_one(Case, case_id).settled_at = datetime.now(UTC) - timedelta(hours=2)
    page = dashboard.sign_in(EMAIL)
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(page.get_by_role("row", name="Pixelgram")).to_contain_text("lead")
    expect(page.get_by_role("region", name="What waits for review")).to_contain_text(
        "1 case the oldest came 2 hours ago"
    )
    expect(page.get_by_text("No appeal among them.")).to_be_visible()
    look(page, "overview")
    cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
    assert list(cookies) == ["telltale_session"], "nothing else is left in the browser"
    session = cookies["telltale_session"]
    assert session["httpOnly"] and session["sameSite"] == "Lax" and session["expires"] == -1
    assert page.evaluate("document.cookie") == ""


def test_signing_in_by_keyboard_leads_where_one_wanted_to_go(dashboard: Dashboard, look: Look) -> None:
    make_mona(dashboard)
    page = dashboard.visit("/dashboard/account")
    look(page, "sign-in")
    expect(page.get_by_label("E-mail")).to_be_focused()
    page.keyboard.type(EMAIL)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/account")
    expect(page.get_by_role("heading", level=1)).to_have_text("Account")


def test_a_wrong_password_and_then_too_many(dashboard: Dashboard, look: Look) -> None:
    make_mona(dashboard)
    page = dashboard.visit()
    alert = page.get_by_role("alert")
    for _ in range(accounts.ATTEMPTS_PER_ACCOUNT):
        fill_in(page, EMAIL, "wrong")
        expect(alert).to_have_text("The e-mail address or the password is not right.")
        expect(page.get_by_label("E-mail")).to_have_value(EMAIL)
        expect(page.get_by_label("Password")).to_have_value("")
    fill_in(page, EMAIL, PASSWORD)
    # From the first of them on, and each takes its time.
    expect(alert).to_have_text(re.compile(r"Too many attempts\. Try again in 1\d minutes\."))
    look(page, "sign-in-throttled")


def test_signing_out(dashboard: Dashboard) -> None:
    make_mona(dashboard)
    page = dashboard.sign_in(EMAIL)
    open_menu(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(page.get_by_role("status")).to_contain_text("You are signed out.")
    assert [cookie["name"] for cookie in page.context.cookies()] == ["telltale_visit"]
    page.go_back()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_new_password_signs_out_everywhere_else(dashboard: Dashboard, look: Look) -> None:
    make_mona(dashboard)
    elsewhere = dashboard.sign_in(EMAIL)
    page = dashboard.sign_in(EMAIL, "/dashboard/account")
    expect(page.get_by_role("row", name="this browser")).to_contain_text("Chrome on Linux")
    look(page, "account")
    page.get_by_label("Present password").fill("wrong")
    page.get_by_label("New password", exact=True).fill(NEW_PASSWORD)
    page.get_by_label("New password again").fill(NEW_PASSWORD)
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_label("Present password")).to_have_accessible_description("The present password is not right.")
    page.get_by_label("Present password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill(NEW_PASSWORD)
    page.get_by_label("New password again").fill(NEW_PASSWORD)
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("status")).to_contain_text("Your password is changed")
    assert page.url.endswith("/dashboard/account")
    elsewhere.reload()
    expect(elsewhere.get_by_role("heading", level=1)).to_have_text("Sign in")
    fill_in(elsewhere, EMAIL, NEW_PASSWORD)
    expect(elsewhere.get_by_role("heading", level=1)).to_have_text("Queue")


def test_an_address_of_the_longest_kind_is_in_one_line(dashboard: Dashboard) -> None:
    make_mona(dashboard)
    page = dashboard.sign_in(EMAIL, "/dashboard/account")
    longest = "2001:1db8:1234:5678:90ab:cdef:1234:5678"
    hours = {"created_at": func.now() - timedelta(hours=11), "last_seen_at": func.now() - timedelta(minutes=59)}
    with transaction() as session:
        session.execute(update(SignIn).values(address=longest, browser="a browser for Windows", **hours))
    page.set_viewport_size(TABLET)
    page.reload()
    cells = page.get_by_role("row", name="this browser").get_by_role("cell")
    assert [lines_of(cells.nth(number)) for number in range(4)] == [1, 1, 1, 1]
    expect(cells.nth(1)).to_have_text(longest)
    assert overflow(page) == 0


def test_signing_out_elsewhere_asks_first(dashboard: Dashboard, look: Look) -> None:
    make_mona(dashboard)
    elsewhere = dashboard.sign_in(EMAIL)
    page = dashboard.sign_in(EMAIL, "/dashboard/account")
    page.get_by_role("button", name="Sign out everywhere else").click()
    question = page.get_by_role("dialog", name="Sign out everywhere else?")
    expect(question).to_be_visible()
    look(page, "dialog")
    question.get_by_role("button", name="Cancel").click()
    expect(question).to_be_hidden()
    page.get_by_role("button", name="Sign out everywhere else").click()
    question.get_by_role("button", name="Sign out elsewhere").click()
    expect(page.get_by_role("status")).to_contain_text("You are signed out everywhere else.")
    elsewhere.goto("/dashboard/account")
    expect(elsewhere.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_form_with_another_pages_token_changes_nothing(dashboard: Dashboard, look: Look) -> None:
    make_mona(dashboard)
    page = dashboard.sign_in(EMAIL, "/dashboard/account")
    open_menu(page)
    page.evaluate("document.querySelectorAll('[name=csrf_token]').forEach(field => field.value = 'x')")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")
    expect(page.get_by_text("nothing was changed")).to_be_visible()
    look(page, "problem")
    page.get_by_role("link", name="To the dashboard").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_who_signs_in_again_in_another_tab_goes_on_in_this_one(dashboard: Dashboard) -> None:
    make_mona(dashboard)
    page = dashboard.sign_in(EMAIL, "/dashboard/account")
    page.get_by_label("Present password").fill("typed before")
    page.context.clear_cookies()
    sign_out_elsewhere = "htmx.ajax('POST', '/dashboard/account/sign-out-elsewhere', {target: '#toasts'})"
    page.evaluate(sign_out_elsewhere)
    with page.context.expect_page() as opened:
        page.get_by_role("status").get_by_role("link", name="Sign in in a new tab").click()
    other = opened.value
    fill_in(other, EMAIL, PASSWORD)
    expect(other.get_by_role("heading", level=1)).to_have_text("Queue")
    # The new tab has told this one its token.
    token = other.locator("input[name=csrf_token]").first.input_value()
    expect(page.locator("input[name=csrf_token]").first).to_have_value(token)
    with page.expect_response("**/sign-out-elsewhere") as answered:
        page.evaluate(sign_out_elsewhere)
    assert answered.value.status == 303
    expect(page.get_by_label("Present password")).to_have_value("typed before")
