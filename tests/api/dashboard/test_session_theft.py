"""Sign-ins that somebody else planted, stole or wants to ride on: what a browser brings along decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import pytest
from sqlalchemy import func, select

from api.app import Application
from api.dashboard import cookies
from moderation import accounts, tenants
from moderation.db import transaction
from moderation.tables import SignIn, Tenant, User
from moderation.vocabulary import Role
from tests.api.dashboard.conftest import PASSWORD, Browser


def sign_in(browser: Browser, user: User) -> str:
    """By the form, as anybody does; returns what the cookie holds then."""
    assert browser.post("/dashboard/sign-in", {"email": user.email, "password": PASSWORD}).status_code == 303
    assert browser.session_cookie
    return browser.session_cookie


def user_of(browser: Browser) -> User:
    assert browser.user is not None
    return browser.user


def test_a_planted_session_is_not_the_one_that_is_signed_in(
    app: Application, browser_of: Callable[..., Browser], nobody: Browser
) -> None:
    """A session of the attacker's own, planted likewise: test_sign_in.py, signing in again."""
    victim, planted = user_of(browser_of(Role.MODERATOR)), "known-to-the-attacker"
    nobody.http.set_cookie(cookies.SESSION, planted)
    assert sign_in(nobody, victim) != planted
    thief = Browser(app.test_client())
    thief.http.set_cookie(cookies.SESSION, planted)
    assert thief.get("/dashboard/account").status_code == 303


def test_a_planted_visit_does_not_give_the_token_of_the_sign_in(
    browser_of: Callable[..., Browser], nobody: Browser
) -> None:
    victim = user_of(browser_of(Role.MODERATOR))
    nobody.http.set_cookie(cookies.VISIT, "known-to-the-attacker")
    planted = nobody.token()
    sign_in(nobody, victim)
    nobody.user = victim
    # Signing in removes the cookie of the visit; whoever could plant one can do so again.
    nobody.http.set_cookie(cookies.VISIT, "known-to-the-attacker")
    assert nobody.token() != planted
    answer = nobody.http.post("/dashboard/account/sign-out-elsewhere", data={"csrf_token": planted})
    assert answer.status_code == 403


def test_every_sign_in_has_a_token_of_its_own_of_256_bits(app: Application, browser_of: Callable[..., Browser]) -> None:
    user = user_of(browser_of(Role.MODERATOR))
    tokens = {sign_in(Browser(app.test_client()), user) for _ in range(3)}
    assert len(tokens) == 3
    assert all(len(token) == 43 for token in tokens), "base64 of 32 bytes"


@pytest.mark.parametrize(
    "rise",
    [
        lambda session, user, tenant: tenants.add_member(session, user, tenant, Role.ADMIN),
        lambda session, user, tenant: accounts.set_operator(session, user, True, actor="test"),
    ],
    ids=["a higher role", "operator"],
)
def test_a_stolen_cookie_does_not_rise_with_its_owner(
    browser_of: Callable[..., Browser], tenant: Tenant, rise: Callable[..., None]
) -> None:
    browser = browser_of(Role.MODERATOR)
    with transaction() as session:
        rise(session, session.get_one(User, user_of(browser).id), session.get_one(Tenant, tenant.id))
    assert browser.get("/dashboard/account").status_code == 303, "they sign in anew"
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(SignIn)) == 0


def test_a_lower_role_or_another_platform_holds_at_once_and_signs_nobody_out(
    browser_of: Callable[..., Browser], tenant: Tenant
) -> None:
    browser = browser_of(Role.ADMIN)
    page = f"/dashboard/platforms/{tenant.id}/keys"
    assert browser.get(page).status_code == 200
    with transaction() as session:
        user = session.get_one(User, user_of(browser).id)
        tenants.add_member(session, user, tenants.create_tenant(session, "Fotoforum"), Role.LEAD)
        tenants.add_member(session, user, session.get_one(Tenant, tenant.id), Role.MODERATOR)
    assert browser.get(page).status_code == 403
    assert browser.get("/dashboard/account").status_code == 200


@pytest.mark.parametrize(
    "place",
    [
        lambda token: {"query_string": {"csrf_token": token}},
        lambda token: {"json": {"csrf_token": token}},
        lambda token: {"headers": {"Cookie": f"csrf_token={token}"}},
        lambda token: {"data": f"csrf_token={token}", "content_type": "text/plain"},
    ],
    ids=["address", "json", "cookie", "plain text"],
)
def test_a_form_token_counts_in_forms_and_its_header_only(
    browser_of: Callable[..., Browser], place: Callable[[str], dict[str, object]]
) -> None:
    browser = browser_of(Role.MODERATOR)
    request = place(browser.token())
    answer = browser.http.post("/dashboard/account/sign-out-elsewhere", **request)  # type: ignore[arg-type]
    assert answer.status_code == HTTPStatus.FORBIDDEN


def test_no_session_is_taken_from_an_address_and_none_is_put_into_one(
    app: Application, browser_of: Callable[..., Browser]
) -> None:
    browser = browser_of(Role.MODERATOR)
    token = browser.session_cookie
    thief = Browser(app.test_client())
    for name in (cookies.SESSION, "session", "sid", "token"):
        assert thief.get(f"/dashboard/account?{name}={token}").status_code == 303
    for answer in (browser.get("/dashboard"), browser.get("/dashboard/queue"), browser.get("/dashboard/account")):
        assert token and token not in f"{answer.headers} {answer.text}"
        assert answer.headers["Referrer-Policy"] in ("same-origin", "no-referrer", "strict-origin")
