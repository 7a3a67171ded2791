"""The sign-in form and the account page, as a browser meets them: cookies, redirects, words, statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import func, select

from api import process
from api.app import Application, create_app
from api.dashboard import cookies
from api.dashboard.account import _browser
from moderation.accounts import ATTEMPTS_PER_ACCOUNT
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import SignIn, SignInAttempt, User
from moderation.vocabulary import Role
from tests.api.dashboard.conftest import PASSWORD, Browser
from tests.conftest import ServiceRun


@pytest.fixture
def user(browser_of: Callable[..., Browser]) -> User:
    """Somebody who has an account, and is signed in somewhere else."""
    found = browser_of(Role.MODERATOR).user
    assert found is not None
    return found


def test_signing_in_gives_a_cookie_that_scripts_and_other_sites_do_not_get(nobody: Browser, user: User) -> None:
    answer = nobody.post("/dashboard/sign-in", {"email": user.email, "password": PASSWORD})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard/queue")
    kept, forgotten = answer.headers.getlist("Set-Cookie")
    assert kept.startswith(f"{cookies.SESSION}=")
    assert kept.partition(";")[2] == " HttpOnly; Path=/; SameSite=Lax"
    assert forgotten.startswith(f"{cookies.VISIT}=;") and "Max-Age=0" in forgotten
    nobody.user = user
    assert user.email in nobody.get("/dashboard").text


@pytest.fixture
def https_app(services: ServiceRun) -> Iterator[Application]:
    """The application as it is behind https."""
    made = create_app(settings().model_copy(update={"public_url": "https://telltale.example"}))
    yield made
    made.extensions[process.EXTENSION].sandbox.close()


def test_over_https_cookies_are_secure_and_bound_to_the_host(https_app: Application, user: User) -> None:
    browser = Browser(https_app.test_client())
    page = browser.http.get("/dashboard/sign-in", base_url="https://telltale.example")
    assert page.headers["Strict-Transport-Security"].startswith("max-age=")
    (visit,) = page.headers.getlist("Set-Cookie")
    token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
    answer = browser.http.post(
        "/dashboard/sign-in",
        base_url="https://telltale.example",
        data={"csrf_token": token, "email": user.email, "password": PASSWORD},
    )
    session = answer.headers.getlist("Set-Cookie")[0]
    for cookie, name in ((visit, cookies.VISIT), (session, cookies.SESSION)):
        assert cookie.startswith(f"__Host-{name}=")
        assert cookie.partition(";")[2] == " Secure; HttpOnly; Path=/; SameSite=Lax"
    assert browser.http.get("/dashboard", base_url="https://telltale.example").status_code == 200


def test_a_wrong_password_says_so_and_keeps_the_address(nobody: Browser, user: User) -> None:
    answers = [
        nobody.post("/dashboard/sign-in", {"email": email, "password": "wrong"})
        for email in (user.email, "nobody@platform.example")
    ]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert f'value="{user.email}"' in answers[0].text
    assert "wrong" not in answers[0].text
    strip = [a.text.replace(e, "…") for a, e in zip(answers, (user.email, "nobody@platform.example"), strict=True)]
    assert strip[0] == strip[1]
    assert "WWW-Authenticate" not in answers[0].headers
    assert nobody.session_cookie is None


def test_too_many_attempts_say_how_long_to_wait(nobody: Browser, user: User) -> None:
    token = nobody.token()
    form = {"csrf_token": token, "email": user.email, "password": "wrong"}
    for _ in range(ATTEMPTS_PER_ACCOUNT):
        nobody.http.post("/dashboard/sign-in", data=form)
    answer = nobody.http.post("/dashboard/sign-in", data=form | {"password": PASSWORD})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 15 * 60
    assert "Try again in 15 minutes." in answer.text


def test_signing_in_again_ends_what_this_browser_had(browser_of: Callable[..., Browser]) -> None:
    browser, other = browser_of(Role.MODERATOR), browser_of(Role.LEAD)
    before = browser.session_cookie
    token = browser.token()
    assert other.user is not None
    form = {"csrf_token": token, "email": other.user.email, "password": PASSWORD}
    assert browser.http.post("/dashboard/sign-in", data=form).status_code == 303
    assert browser.session_cookie not in (None, before)
    stolen = Browser(browser.http.application.test_client())
    stolen.http.set_cookie(cookies.SESSION, before or "")
    assert stolen.get("/dashboard").status_code == 303


@pytest.mark.parametrize(
    ("wanted", "led_to"),
    [
        ("/dashboard/account", "/dashboard/account"),
        ("/dashboard/account?x=1", "/dashboard/account?x=1"),
        ("https://evil.example/", "/dashboard/queue"),
        ("//evil.example/dashboard/", "/dashboard/queue"),
        ("/\\evil.example", "/dashboard/queue"),
        ("/dashboard", "/dashboard/queue"),
        ("/v1/cases", "/dashboard/queue"),
        ("javascript:alert(1)", "/dashboard/queue"),
        ("/dashboard.evil.example", "/dashboard/queue"),
        ("/dashboard/\r\nX: 1", "/dashboard/queue"),
        ("/dashboard/\x00", "/dashboard/queue"),
        ("/dashboard/queue?q=Käse und Brot", "/dashboard/queue?q=K%C3%A4se%20und%20Brot"),
    ],
)
def test_it_leads_onward_but_never_away(nobody: Browser, user: User, wanted: str, led_to: str) -> None:
    form = {"email": user.email, "password": PASSWORD, "next": wanted}
    answer = nobody.post("/dashboard/sign-in", form)
    assert (answer.status_code, answer.headers["Location"]) == (303, led_to)


def test_where_one_wanted_to_go_survives_the_form(nobody: Browser) -> None:
    answer = nobody.get("/dashboard/account?a=1&b=2", follow_redirects=True)
    assert 'name="next" value="/dashboard/account?a=1&amp;b=2"' in answer.text


def test_who_is_signed_in_needs_no_form(browser_of: Callable[..., Browser]) -> None:
    assert browser_of(Role.LEAD).get("/dashboard/sign-in").headers["Location"] == "/dashboard/queue"


def test_who_works_for_nobody_yet_arrives_where_it_says_so(browser_of: Callable[..., Browser]) -> None:
    browser = browser_of(None)
    assert browser.get("/dashboard/sign-in").headers["Location"] == "/dashboard"
    assert "You work for no platform yet" in browser.get("/dashboard").text


def test_signing_out_ends_it_on_the_server(browser_of: Callable[..., Browser]) -> None:
    browser = browser_of(Role.LEAD)
    kept = browser.session_cookie or ""
    answer = browser.post("/dashboard/sign-out")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard/sign-in?said=signed_out")
    assert browser.session_cookie is None
    browser.http.set_cookie(cookies.SESSION, kept)
    assert browser.get("/dashboard").status_code == 303


def test_changing_the_password(browser_of: Callable[..., Browser]) -> None:
    browser = browser_of(Role.LEAD)
    form = {"old_password": PASSWORD, "new_password": "a longer one still", "new_password_again": "a longer one still"}
    for wrong, words in (
        ({"old_password": "wrong"}, "The present password is not right."),
        ({"new_password": "short", "new_password_again": "short"}, "at least 12 characters"),
        ({"new_password_again": "something else"}, "are not the same"),
    ):
        answer = browser.post("/dashboard/account/password", form | wrong)
        assert answer.status_code == 400
        assert words in answer.text and 'aria-invalid="true"' in answer.text
    answer = browser.post("/dashboard/account/password", form)
    assert answer.headers["Location"] == "/dashboard/account?said=password_changed"
    assert "Your password is changed" in browser.get(answer.headers["Location"]).text


def test_signing_out_elsewhere(nobody: Browser, user: User) -> None:
    nobody.post("/dashboard/sign-in", {"email": user.email, "password": PASSWORD})
    nobody.user = user
    assert "Sign out everywhere else" in nobody.get("/dashboard/account").text
    assert nobody.post("/dashboard/account/sign-out-elsewhere").status_code == 303
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(SignIn)) == 1
    assert 'data-opens="sign-out-elsewhere"' not in nobody.get("/dashboard/account").text


def test_behind_proxies_attempts_are_counted_by_who_sent_them(services: ServiceRun, user: User) -> None:
    app = create_app(settings().model_copy(update={"trusted_proxies": 1}))
    browser = Browser(app.test_client())
    form = {"email": "nobody@platform.example", "password": "wrong"}
    browser.post("/dashboard/sign-in", form, headers={"X-Forwarded-For": "198.51.100.9, 203.0.113.7"})
    app.extensions[process.EXTENSION].sandbox.close()
    with transaction() as session:
        assert session.scalars(select(SignInAttempt.address)).all() == ["203.0.113.7/32"]


def test_without_proxies_nobody_says_where_they_come_from(nobody: Browser) -> None:
    form = {"email": "nobody@platform.example", "password": "wrong"}
    nobody.post("/dashboard/sign-in", form, headers={"X-Forwarded-For": "203.0.113.7"})
    with transaction() as session:
        assert session.scalars(select(SignInAttempt.address)).all() == ["127.0.0.1/32"]


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) AppleWebKit/605 Version/18 Safari/605", "Safari on macOS"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18 like Mac OS X) Version/18 Safari/604", "Safari on iPhone"),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Safari/537.36", "Chrome on Android"),
        ("curl/8", "A browser"),
        ("", "A browser"),
    ],
)
def test_browsers_have_names(user_agent: str, name: str) -> None:
    assert _browser(user_agent) == name
