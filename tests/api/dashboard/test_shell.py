"""What every answer of the dashboard carries, and what people see when something goes wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from api.app import Application
from api.dashboard import assets, cookies, times
from moderation import accounts
from moderation import db as db_module
from moderation.db import transaction
from moderation.vocabulary import Role
from tests.api.conftest import Client
from tests.api.dashboard.conftest import Browser
from tests.factories import make_version

TEMPLATES = Path(assets.FOLDER).parent / "templates"
PAGES = ("/dashboard", "/dashboard/sign-in", "/dashboard/account", "/dashboard/nowhere", "/dashboard/static/none.css")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("role", [None, Role.ADMIN], ids=str)
def test_every_answer_tells_the_browser_to_trust_and_keep_nothing(
    browser_of: Callable[..., Browser], path: str, role: Role | None
) -> None:
    headers = browser_of(role).get(path).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'")
    assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy and "data:" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert "Strict-Transport-Security" not in headers, "not over http"


def test_the_api_has_no_such_headers(client: Client) -> None:
    assert "Content-Security-Policy" not in client.get("/v1/cases").headers


def test_templates_have_nothing_that_the_policy_refuses() -> None:
    inline = re.compile(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|\shx-on|javascript:", re.IGNORECASE)
    for file in TEMPLATES.rglob("*.html"):
        assert inline.findall(file.read_text()) == [], file.name


def test_static_files_are_kept_under_the_address_of_their_content_only(nobody: Browser) -> None:
    page = nobody.get("/dashboard/sign-in").text
    for path in re.findall(r'(?:src|href)="(/dashboard/static/[^"]+)"', page):
        answer = nobody.get(path)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
        assert answer.headers.getlist("Set-Cookie") == []
        other = nobody.get(re.sub(r"v=\w+", "v=0", path))
        assert other.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["../shell.py", "..%2fshell.py", "%2e%2e/shell.py", "/etc/passwd", "%00"])
def test_static_files_are_those_of_their_folder(nobody: Browser, name: str) -> None:
    assert nobody.get(f"/dashboard/static/{name}", follow_redirects=True).status_code == 404


def test_a_page_that_is_not_there_is_a_page(browser_of: Callable[..., Browser], nobody: Browser) -> None:
    for browser in (browser_of(Role.MODERATOR), nobody):
        answer = browser.get("/dashboard/nowhere", headers={"X-Request-Id": "req-7"})
        assert (answer.status_code, answer.mimetype) == (404, "text/html")
        assert "There is nothing at this address." in answer.text and "<code>req-7</code>" in answer.text
    assert nobody.get("/nowhere").mimetype == "application/problem+json"


def test_htmx_gets_the_words_alone(browser_of: Callable[..., Browser]) -> None:
    answer = browser_of(Role.MODERATOR).htmx("/dashboard/nowhere")
    assert answer.status_code == 404
    assert answer.text.startswith("<p data-problem>There is nothing at this address.")


def test_a_wrong_method_is_a_page(browser_of: Callable[..., Browser]) -> None:
    answer = browser_of(Role.MODERATOR).get("/dashboard/sign-out")
    assert (answer.status_code, answer.mimetype) == (405, "text/html")


def test_a_fault_of_ours_shows_the_request_id_and_nothing_else(
    browser_of: Callable[..., Browser], monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = browser_of(Role.MODERATOR)

    def broken(*_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(accounts, "sign_ins", broken)
    answer = browser.get("/dashboard/account", headers={"X-Request-Id": "req-8"})
    assert (answer.status_code, answer.mimetype) == (500, "text/html")
    assert "req-8" in answer.text and "secret" not in answer.text
    assert answer.headers["Content-Security-Policy"]


def test_without_a_database_there_is_a_page_that_says_so(
    browser_of: Callable[..., Browser], monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = browser_of(Role.MODERATOR)
    away = create_engine("postgresql+psycopg://nobody:secret@127.0.0.1:9/none")
    monkeypatch.setattr(db_module, "engine", lambda: away)
    answer = browser.get("/dashboard")
    assert (answer.status_code, answer.mimetype) == (503, "text/html")
    assert answer.headers["Retry-After"] == "5"
    assert "The database does not answer." in answer.text


def test_every_page_says_so_where_the_demo_model_judges(browser_of: Callable[..., Browser]) -> None:
    browser = browser_of(Role.MODERATOR)
    assert "Demo model, not FakeVLM" not in browser.get("/dashboard").text
    with transaction() as session:
        make_version(session, "telltale-demo")
    assert "Demo model, not FakeVLM" in browser.get("/dashboard").text


@pytest.mark.parametrize(
    ("cookie", "attribute"), [("dark", ' data-theme="dark"'), ("light", ' data-theme="light"'), ('"><b>', "")]
)
def test_the_colours_that_were_chosen_come_with_the_page(nobody: Browser, cookie: str, attribute: str) -> None:
    nobody.http.set_cookie(cookies.THEME, cookie)
    page = nobody.get("/dashboard/sign-in").text
    assert f'<html lang="en"{attribute}>' in page


def test_said_words_come_from_a_list(nobody: Browser) -> None:
    assert "You are signed out." in nobody.get("/dashboard/sign-in?said=signed_out").text
    assert "injected" not in nobody.get("/dashboard/sign-in?said=injected").text


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (timedelta(seconds=3), "just now"),
        (timedelta(seconds=-3), "just now"),
        (timedelta(seconds=59), "59 seconds ago"),
        (timedelta(seconds=61), "1 minute ago"),
        (timedelta(minutes=59, seconds=59), "59 minutes ago"),
        (timedelta(hours=23), "23 hours ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=45), "1 month ago"),
        (timedelta(days=800), "2 years ago"),
        (timedelta(minutes=-5), "in 5 minutes"),
    ],
)
def test_times_as_people_say_them(ago: timedelta, words: str) -> None:
    now = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    assert times.relative(now - ago, now) == words


def test_templates_are_found_by_one_name_each(app: Application) -> None:
    assert app.jinja_env.get_template("page.html").filename == str(TEMPLATES / "page.html")
