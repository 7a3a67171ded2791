"""The dashboard in process: people with roles, each with a browser that keeps cookies and sends CSRF tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from api.app import Application
from api.dashboard import cookies
from moderation import accounts, reviews, tenants
from moderation.db import transaction
from moderation.tables import Tenant, User
from moderation.vocabulary import Role
from tests.factories import make_tenant
from tests.platforms import Furnished, furnish

PASSWORD = "correct horse battery staple"
TOKEN = re.compile(r'"X-CSRF-Token": "([0-9a-f]{64})"')


# Real ones take long on purpose; they are tried in tests/moderation/test_accounts.py and in tests/browser.
CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords that are hashed in no time."""
    monkeypatch.setattr(accounts, "_hasher", lambda: CHEAP)
    monkeypatch.setattr(tenants, "PasswordHasher", lambda: CHEAP)


@pytest.fixture(autouse=True)
def time_to_undo(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer waits for as long as a busy machine may take; tests/moderation/test_reviews.py has the ten seconds."""
    monkeypatch.setattr(reviews, "UNDO", timedelta(seconds=90))


@dataclass
class Browser:
    """A browser, and who is signed in with it."""

    http: FlaskClient
    user: User | None = None

    def get(self, path: str, **options: Any) -> TestResponse:
        """As a link is followed; redirects are not."""
        return self.http.get(path, **options)

    def htmx(self, path: str, method: str = "GET", **options: Any) -> TestResponse:
        """As htmx asks, with the page's token."""
        headers = {"HX-Request": "true", "X-CSRF-Token": self.token(), **options.pop("headers", {})}
        return self.http.open(path, method=method, headers=headers, **options)

    def post(self, path: str, data: Mapping[str, Any] | None = None, **options: Any) -> TestResponse:
        """As a form is sent, with the page's token unless `data` has another."""
        return self.http.post(path, data={"csrf_token": self.token(), **(data or {})}, **options)

    def token(self) -> str:
        """The CSRF token of this browser's pages."""
        page = self.http.get("/dashboard/account" if self.user else "/dashboard/sign-in")
        found = TOKEN.search(page.text)
        assert found, page.text
        return found[1]

    @property
    def session_cookie(self) -> str | None:
        """What says who is signed in."""
        cookie = self.http.get_cookie(cookies.SESSION)
        return cookie.value if cookie else None


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    """A platform."""
    with transaction() as session:
        return make_tenant(session, "Pixelgram")


@pytest.fixture
def nobody(app: Application, db: Engine) -> Browser:
    """A browser in which nobody is signed in."""
    return Browser(app.test_client())


@pytest.fixture
def browser_of(app: Application, tenant: Tenant) -> Callable[..., Browser]:
    """Makes a browser in which somebody is signed in, who has `role` (or none) for `tenant` or another one."""

    def made(role: Role | None, of: Tenant = tenant) -> Browser:
        with transaction() as session:
            user = tenants.create_user(session, f"{role or 'nothing'}@{of.id}.example", PASSWORD)
            if role is not None:
                tenants.add_member(session, user, of, role)
        browser = Browser(app.test_client(), user)
        token = accounts.sign_in(user.email, PASSWORD, address="127.0.0.1", browser="Chrome/140 (X11; Linux x86_64)")
        browser.http.set_cookie(cookies.SESSION, token)
        return browser

    return made


@pytest.fixture
def ours(tenant: Tenant) -> Furnished:
    """The platform with one of everything."""
    with transaction() as session:
        return furnish(session, session.get_one(Tenant, tenant.id))


@pytest.fixture
def theirs(tenant: Tenant) -> Furnished:
    """Another platform with one of everything."""
    with transaction() as session:
        return furnish(session, make_tenant(session, "Fotoforum"))


@pytest.fixture
def ada(browser_of: Callable[..., Browser]) -> Browser:
    """The browser of an administrator of the platform."""
    return browser_of(Role.ADMIN)
