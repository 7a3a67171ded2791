"""Every page there is, opened in a browser: by whom it is for, under the policy, with no complaint from browser or axe.

The pages come from the url map. One with ids in its path needs a line in EXAMPLES, what is no page one in NO_PAGES.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from api import auth, process
from api.app import create_app
from infra.services import wait_until
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.vocabulary import Role
from tests.browser.conftest import Dashboard, open_menu, tenant_named, violations
from tests.exhibiting import exhibit
from tests.platforms import furnish
from tests.reviewing import make_review_case


def case_page() -> str:
    """A case in review, with its picture."""
    with transaction() as session:
        case = make_review_case(session, tenant_named(session, "Pixelgram"))
        case_id, image_id = case.id, case.image_id
    assert image_id is not None
    exhibit(Storage(settings()), image_id, Image.new("RGB", (320, 240), "teal"))
    return f"/dashboard/cases/{case_id}"


def platform_page(rest: str) -> Callable[[], str]:
    """A page of Pixelgram's, which has one of everything."""

    def made() -> str:
        with transaction() as session:
            return furnish(session, tenant_named(session, "Pixelgram")).path(rest)

    return made


# What stands in the place of a path with ids, for an administrator of Pixelgram.
EXAMPLES: dict[str, Callable[[], str]] = {
    "/dashboard/cases/<uuid:case_id>": case_page,
    "/dashboard/platforms/<uuid:tenant_id>": platform_page(""),
    "/dashboard/platforms/<uuid:tenant_id>/keys": platform_page("/keys"),
    "/dashboard/platforms/<uuid:tenant_id>/sources": platform_page("/sources"),
    "/dashboard/platforms/<uuid:tenant_id>/sources/new": platform_page("/sources/new"),
    "/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>": platform_page("/sources/{source}"),
    "/dashboard/platforms/<uuid:tenant_id>/endpoints": platform_page("/endpoints"),
    "/dashboard/platforms/<uuid:tenant_id>/endpoints/new": platform_page("/endpoints/new"),
    "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>": platform_page("/endpoints/{endpoint}"),
    "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/replay": platform_page(
        "/endpoints/{endpoint}/replay?since=2026-01-01"
    ),
    "/dashboard/platforms/<uuid:tenant_id>/deliveries": platform_page("/deliveries"),
    "/dashboard/platforms/<uuid:tenant_id>/deliveries/<uuid:delivery_id>": platform_page("/deliveries/{delivery}"),
    "/dashboard/platforms/<uuid:tenant_id>/failures": platform_page("/failures"),
    "/dashboard/platforms/<uuid:tenant_id>/people": platform_page("/people"),
    "/dashboard/platforms/<uuid:tenant_id>/audit": platform_page("/audit"),
    "/dashboard/platforms/<uuid:tenant_id>/thresholds": platform_page("/thresholds"),
}
# Only operators have these: tests/browser/test_training.py opens them.
OPERATORS_PAGES = {"/dashboard/runs", "/dashboard/runs/<uuid:run_id>", "/dashboard/runs/<uuid:run_id>/report"}
# Files, images, and the parts of pages that htmx asks for.
NO_PAGES = {
    "/dashboard/platforms/<uuid:tenant_id>/audit.csv",
    "/dashboard/static/<path:name>",
    "/dashboard/cases/<uuid:case_id>/rendition",
    "/dashboard/cases/<uuid:case_id>/explanation",
    "/dashboard/cases/<uuid:case_id>/statement-of-reasons",
    "/dashboard/insight/<name>.csv",
    "/dashboard/models/panel.csv",
    "/dashboard/cases/<uuid:case_id>/views/<view>",
}


def pages() -> list[str]:
    """Every rule that is opened as a page by who is signed in."""
    app = create_app(settings())
    app.extensions[process.EXTENSION].sandbox.close()
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith(auth.DASHBOARD)]
    opened = {rule.rule for rule in rules if "GET" in (rule.methods or ()) and rule.endpoint != "sign_in.form"}
    return sorted(opened - NO_PAGES - OPERATORS_PAGES)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("rule", pages())
def test_every_page_pleases_browser_and_axe(dashboard: Dashboard, rule: str, theme: str) -> None:
    dashboard.person("ada@platform.example", Pixelgram=Role.ADMIN)
    path = EXAMPLES[rule]() if "<" in rule else rule
    page = dashboard.sign_in("ada@platform.example", path, theme=theme)
    answer = page.goto(path)
    assert answer is not None and answer.status == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"
    assert violations(page) == []


def test_a_page_that_is_not_there_is_a_page(dashboard: Dashboard) -> None:
    page = dashboard.visit("/dashboard/nowhere")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not Found")
    assert violations(page) == []


def test_the_browser_enforces_the_policy(dashboard: Dashboard) -> None:
    page = dashboard.visit("/dashboard/sign-in")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p id=p style=\"color: red\">x</p>')")
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
    }""")
    assert page.evaluate("window.ran") is None
    assert page.evaluate("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
    # What it says is heard when it is asked something.
    wait_until(lambda: page.evaluate("2") == len(dashboard.complaints), "what the browser says of both")
    dashboard.complaints.clear()


def test_the_first_tab_stop_skips_to_the_content(dashboard: Dashboard) -> None:
    dashboard.person("mona@platform.example", Pixelgram=Role.MODERATOR)
    page = dashboard.sign_in("mona@platform.example")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


@pytest.mark.parametrize(("system", "choice", "ground"), [("light", "Dark", "dark"), ("dark", "Light", "light")])
def test_the_colours_are_the_systems_until_others_are_chosen_and_stay(
    dashboard: Dashboard, system: str, choice: str, ground: str
) -> None:
    dashboard.person("mona@platform.example", Pixelgram=Role.MODERATOR)
    page = dashboard.sign_in("mona@platform.example", theme=system)
    assert lightness(page) == system
    open_menu(page)
    page.get_by_role("radio", name=choice).check()
    assert lightness(page) == ground
    page.reload()
    assert lightness(page) == ground
    open_menu(page)
    expect(page.get_by_role("radio", name=choice)).to_be_checked()
    page.get_by_role("radio", name="System").check()
    page.reload()
    assert lightness(page) == system


def lightness(page: Page) -> str:
    """Whether what is seen is light or dark."""
    red: int = page.evaluate("Number(getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0])")
    return "light" if red > 127 else "dark"


def test_the_menu_closes_with_escape_and_gives_back_the_focus(dashboard: Dashboard, look: Callable[..., None]) -> None:
    dashboard.person("mona@platform.example")
    page = dashboard.sign_in("mona@platform.example")
    page.locator("[data-menu] summary").press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    look(page, "menu")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_what_htmx_is_refused_is_said_and_the_page_stays(dashboard: Dashboard) -> None:
    dashboard.person("mona@platform.example", Pixelgram=Role.MODERATOR)
    page = dashboard.sign_in("mona@platform.example")
    page.evaluate("htmx.ajax('GET', '/dashboard/nowhere', {target: '#main'})")
    expect(page.get_by_role("status")).to_contain_text("There is nothing at this address.")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    page.get_by_role("button", name="Close this message").click()
    expect(page.get_by_role("status")).to_be_empty()
    page.context.clear_cookies()
    page.evaluate("htmx.ajax('POST', '/dashboard/account/password', {target: '#main'})")
    expect(page.get_by_role("status").get_by_role("link")).to_have_text("Sign in in a new tab")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
