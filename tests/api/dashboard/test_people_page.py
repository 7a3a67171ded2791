"""The people's page: added, given another role, let go; the last administrator stays, and nobody else's."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import func, select

from moderation import accounts, claims, tenants
from moderation.accounts import Person
from moderation.db import new_id, transaction
from moderation.tables import Membership, Tenant, User
from moderation.vocabulary import Role
from tests.api.dashboard.conftest import Browser
from tests.factories import make_tenant
from tests.reviewing import make_person, make_review_case

PASSWORD = re.compile(r'id="password" value="([^"]+)"')


@pytest.fixture
def path(tenant: Tenant) -> str:
    return f"/dashboard/platforms/{tenant.id}/people"


@pytest.fixture
def bert(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant, email="bert@example.com")


def role_of(tenant: Tenant, user_id: UUID) -> Role | None:
    with transaction() as session:
        found = session.get(Membership, (user_id, tenant.id))
        return found.role if found else None


def test_who_is_new_gets_a_password_that_is_shown_once(ada: Browser, tenant: Tenant, path: str) -> None:
    answer = ada.post(path, {"email": "nina@example.com", "role": "lead"})
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    found = PASSWORD.search(answer.text)
    assert found and accounts.sign_in("nina@example.com", found[1], address="127.0.0.1", browser="")
    page = ada.get(path).text
    assert "nina@example.com" in page and found[1] not in page


def test_who_works_for_another_of_ones_platforms_is_added_and_no_password_is_shown(
    ada: Browser, tenant: Tenant, path: str
) -> None:
    with transaction() as session:
        assert ada.user is not None
        other = make_tenant(session, "Fotoforum")
        tenants.add_member(session, ada.user, other, Role.ADMIN)
        olga = make_person(session, other, email="olga@example.com")
    answer = ada.post(path, {"email": "olga@example.com", "role": "moderator"})
    assert answer.location == f"{path}?said=member_added"
    assert role_of(tenant, olga.user_id) is Role.MODERATOR
    assert "Fotoforum" not in ada.get(path).text.split("<main")[1]


def test_an_account_that_another_platforms_administrator_made_opens_nothing_here(
    ada: Browser, browser_of: Callable[..., Browser], tenant: Tenant, path: str
) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
    mallory = browser_of(Role.ADMIN, other)
    made = mallory.post(f"/dashboard/platforms/{other.id}/people", {"email": "v@example.com", "role": "moderator"})
    found = PASSWORD.search(made.text)
    answer = ada.post(path, {"email": "v@example.com", "role": "admin"})
    assert answer.status_code == 409 and "Ask whoever runs Telltale" in answer.text
    assert found is not None
    token = accounts.sign_in("v@example.com", found[1], address="127.0.0.1", browser="")
    assert accounts.person_with(token).role_in(tenant.id) is None


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"email": "nina", "role": "lead"}, 400, "is not an e-mail address"),
        ({"email": "nina@example.com"}, 400, "Choose a role"),
        ({"email": "nina@example.com", "role": "king"}, 400, "choose from the list"),
        ({"email": "bert@example.com", "role": "lead"}, 409, "works for this platform already"),
    ],
)
def test_what_is_wrong_is_said_and_nobody_is_made(
    ada: Browser, bert: Person, path: str, sent: dict[str, str], status: int, words: str
) -> None:
    with transaction() as session:
        before = session.scalar(select(func.count(User.id)))
    answer = ada.post(path, sent)
    assert answer.status_code == status and words in html.unescape(answer.text)
    with transaction() as session:
        assert session.scalar(select(func.count(User.id))) == before


def test_a_role_is_changed(ada: Browser, tenant: Tenant, bert: Person, path: str) -> None:
    answer = ada.post(f"{path}/{bert.user_id}/role", {"role": "lead"})
    assert answer.location == f"{path}?said=member_changed"
    assert role_of(tenant, bert.user_id) is Role.LEAD
    assert ada.post(f"{path}/{bert.user_id}/role", {"role": "king"}).status_code == 400
    assert role_of(tenant, bert.user_id) is Role.LEAD


def test_who_is_removed_sees_nothing_more_and_gives_back_what_they_had(
    ada: Browser, browser_of: Callable[..., Browser], tenant: Tenant, bert: Person, path: str
) -> None:
    with transaction() as session:
        case = make_review_case(session, tenant)
        claims.claim(session, bert, case.id)
    lea = browser_of(Role.LEAD)
    assert lea.user is not None and lea.get(f"/dashboard/platforms/{tenant.id}/audit").status_code == 200
    assert ada.post(f"{path}/{lea.user.id}/remove").location == f"{path}?said=member_removed"
    assert lea.get(f"/dashboard/platforms/{tenant.id}/audit").status_code == 404
    assert ada.post(f"{path}/{bert.user_id}/remove").location == f"{path}?said=member_removed_back"
    with transaction() as session:
        assert claims.live(session, case.id) is None


def test_the_last_administrator_stays_and_another_may_go(ada: Browser, tenant: Tenant, bert: Person, path: str) -> None:
    assert ada.user is not None
    for what, sent in (("remove", {}), ("role", {"role": "lead"})):
        answer = ada.post(f"{path}/{ada.user.id}/{what}", sent)
        assert answer.status_code == 409 and "at least one administrator" in answer.text
    assert role_of(tenant, ada.user.id) is Role.ADMIN
    ada.post(f"{path}/{bert.user_id}/role", {"role": "admin"})
    assert ada.post(f"{path}/{ada.user.id}/role", {"role": "lead"}).location == "/dashboard?said=member_changed"
    assert ada.get(path).status_code == 403


def test_another_platforms_people_are_not_there(ada: Browser, path: str) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
        olga = make_person(session, other, role=Role.ADMIN, email="olga@example.com")
    assert "olga" not in ada.get(path).text
    for user_id in (olga.user_id, new_id()):
        assert ada.post(f"{path}/{user_id}/remove").status_code == 404
        assert ada.post(f"{path}/{user_id}/role", {"role": "moderator"}).status_code == 404
    assert ada.post(f"/dashboard/platforms/{other.id}/people/{olga.user_id}/remove").status_code == 404
    assert role_of(other, olga.user_id) is Role.ADMIN
