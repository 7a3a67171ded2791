"""Real Chromium against the real api: gunicorn on a free port of loopback, with this test process's own database.

A page that logs an error, or whose policy refuses something, fails the test that opened it. `look` is what every page
is put through: no axe violation in light or dark, and a screenshot of each.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    expect,
    sync_playwright,
)
from sqlalchemy import Engine

from infra.services import LOOPBACK, free_port, wait_until
from moderation import tenants
from moderation.db import transaction
from moderation.tables import Tenant, User
from moderation.vocabulary import Role
from tests.api.conftest import _answers
from tests.browser import chromium, screenshots
from tests.conftest import ServiceRun
from tests.factories import make_tenant

ROOT = Path(__file__).resolve().parents[2]
AXE = Path(__file__).with_name("axe-4.14.1.min.js")
PASSWORD = "correct horse battery staple"
DESKTOP = {"width": 1280, "height": 800}
TABLET = {"width": 768, "height": 1024}
# The machine may be busy with other tests, and what passes waits for none of it.
TIMEOUT_MS = 90_000
# Of WCAG 2.2 AA, and what axe recommends beyond it.
AXE_RUN = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
    .map(v => `${v.id}: ${v.help}: ${v.nodes.map(n => n.target.join(" ")).join(", ")}`)"""


@dataclass
class Dashboard:
    """A running dashboard, and people who may sign in to it."""

    url: str
    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def person(self, email: str, **roles: Role) -> User:
        """A person with a role for each of the named tenants, which are made where there are none."""
        with transaction() as session:
            user = tenants.create_user(session, email, PASSWORD)
            for name, role in roles.items():
                tenants.add_member(session, user, tenant_named(session, name), role)
            return user

    def visit(self, path: str = "/dashboard", *, theme: Literal["light", "dark"] = "light") -> Page:
        """A page in a browser of its own, which is signed in nowhere."""
        context = self.browser.new_context(base_url=self.url, viewport=DESKTOP, color_scheme=theme, locale="en-GB")
        context.set_default_timeout(TIMEOUT_MS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(path)
        return page

    def sign_in(self, email: str, path: str = "/dashboard", *, theme: Literal["light", "dark"] = "light") -> Page:
        """A page in a browser of its own, in which this person has signed in through the form."""
        page = self.visit(path, theme=theme)
        fill_in(page, email, PASSWORD)
        if path == "/dashboard":  # the front door, which leads to one's work
            page.wait_for_url(lambda url: "/sign-in" not in url)
            page.goto(path)
        page.wait_for_url(lambda url: url == f"{self.url}{path}")  # not the form's, which ends with the path too
        return page

    def _listen(self, message: ConsoleMessage) -> None:
        # Browser and htmx log every answer of 400 and above; those are the tests' own doing.
        refused = ("the server responded with a status of", "Response Status Error Code")
        if message.type == "error" and not any(words in message.text for words in refused):
            self.complaints.append(message.text)


def tenant_named(session: Any, name: str) -> Tenant:
    """The tenant of this name, made where there is none."""
    known = session.query(Tenant).filter_by(name=name).one_or_none()
    return known or make_tenant(session, name)


def fill_in(page: Page, email: str, password: str) -> None:
    """Fill in the sign-in form, and send it."""
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def open_menu(page: Page) -> None:
    """Open the account's menu."""
    page.locator("[data-menu] summary").click()


@contextmanager
def serving(**environment: str) -> Iterator[str]:
    """The address of a real api, ended with the block."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--config", "python:infra.gunicorn", "--workers", "1"]
    running = subprocess.Popen(
        [*command, "--bind", f"{LOOPBACK}:{port}", "tests.browser.patient:app"],
        cwd=ROOT,
        env={**os.environ, "TELLTALE_API_THREADS": "8", **environment},
    )
    try:
        wait_until(lambda: _answers(port), "the api")
        yield f"http://{LOOPBACK}:{port}"
    finally:
        running.terminate()
        running.wait(timeout=TIMEOUT_MS / 1000)


@pytest.fixture(scope="session")
def dashboard_url(services: ServiceRun) -> Iterator[str]:
    """The api of this test process."""
    with serving() as url:
        yield url


@pytest.fixture(scope="session")
def browser(services: ServiceRun) -> Iterator[Browser]:
    """One Chromium for this test process."""
    with (services.folder / "chromium").open("w") as lock, sync_playwright() as playwright:
        # The test processes of a run do not install it at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        executable = chromium.executable()
        fcntl.flock(lock, fcntl.LOCK_UN)
        expect.set_options(timeout=TIMEOUT_MS)
        # Chromium's own sandbox does not run as root.
        sandboxed = os.geteuid() != 0
        launched = playwright.chromium.launch(
            executable_path=executable, chromium_sandbox=sandboxed, timeout=TIMEOUT_MS
        )
        yield launched
        launched.close()


@pytest.fixture
def dashboard(dashboard_url: str, browser: Browser, db: Engine) -> Iterator[Dashboard]:
    """The dashboard with an empty database. Fails the test where the browser complained of anything."""
    made = Dashboard(dashboard_url, browser)
    yield made
    for context in made.contexts:
        context.close()
    assert made.complaints == [], "the browser's console"


@pytest.fixture
def look() -> Callable[[Page, str], None]:
    """Look at a page in light and dark: nothing to object to for axe, and a screenshot each, at both widths in light.

    `name` is the screenshots' file name in docs/screenshots.
    """

    def look_at(page: Page, name: str) -> None:
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            assert violations(page) == [], f"{name}, {theme}"
            screenshots.keep(page, f"{name}-{theme}")
        page.set_viewport_size(TABLET)
        assert violations(page) == [], f"{name}, {TABLET['width']} px"
        assert overflow(page) == 0, f"{name} is wider than {TABLET['width']} px"
        page.set_viewport_size(DESKTOP)

    return look_at


def violations(page: Page) -> list[str]:
    """What axe objects to. It is run from outside the page, whose policy would not load it."""
    try:
        page.evaluate("axe.version")
    except Error:
        page.evaluate(AXE.read_text())
    found: list[str] = page.evaluate(AXE_RUN)
    return found


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    wide: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wide


def lines_of(shown: Locator) -> int:
    """How many lines this takes on its page."""
    count: int = shown.evaluate("""shown => {
        const range = document.createRange();
        range.selectNodeContents(shown);
        const ends = [...range.getClientRects()].map(part => part.bottom);
        const apart = ends.sort((a, b) => a - b).filter((end, at) => at === 0 || end - ends[at - 1] > 8);
        return apart.length;
    }""")
    return count
