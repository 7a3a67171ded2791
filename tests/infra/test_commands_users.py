"""`telltale users disable`, `enable` and `password`: who is out is out everywhere, and has nothing in hand."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from moderation import accounts, claims, tenants
from moderation.db import transaction
from moderation.errors import Unauthenticated
from moderation.tables import Case
from moderation.vocabulary import Role
from tests.factories import make_tenant
from tests.infra.test_commands_administration import as_json, refused
from tests.reviewing import make_review_case

EMAIL, PASSWORD = "mo@acme.example", "correct horse battery staple"


@pytest.fixture
def token(db: Engine) -> str:
    """Mo is signed in and at work on two cases, one of which is assigned to them."""
    with transaction() as session:
        tenant = make_tenant(session, "acme")
        tenants.add_member(session, tenants.create_user(session, EMAIL, PASSWORD), tenant, Role.MODERATOR, actor="test")
        at_work = make_review_case(session, tenant)
        assigned = make_review_case(session, tenant)
    token = sign_in(PASSWORD)
    person = accounts.person_with(token)
    with transaction() as session:
        session.get_one(Case, assigned.id).assigned_to = person.user_id
        session.flush()
        for case_id in (at_work.id, assigned.id):
            claims.claim(session, person, case_id)
    return token


def sign_in(password: str) -> str:
    return accounts.sign_in(EMAIL, password, address="203.0.113.7", browser="Firefox")


def is_out(token: str) -> bool:
    try:
        accounts.person_with(token)
    except Unauthenticated:
        return True
    return False


def test_who_is_disabled_is_out_and_has_nothing_in_hand_until_enabled(token: str) -> None:
    done = as_json("users", "disable", EMAIL)
    assert (done["email"], done["disabled"], done["sign_ins_ended"]) == (EMAIL, True, 1)
    assert (done["claims_ended"], done["assignments_ended"]) == (2, 1)
    assert is_out(token)
    with transaction() as session:
        for case in session.query(Case):
            assert case.assigned_to is None and claims.live(session, case.id) is None
    assert "disabled already" in refused("users", "disable", EMAIL)
    assert as_json("users", "enable", EMAIL) == {"email": EMAIL, "disabled": False}
    assert "is not disabled" in refused("users", "enable", EMAIL)
    assert is_out(token) and not is_out(sign_in(PASSWORD))


def test_a_new_password_is_shown_once_and_ends_every_sign_in(token: str) -> None:
    made = as_json("users", "password", EMAIL)
    assert made["sign_ins_ended"] == 1 and is_out(token)
    assert len(made["password"]) >= 16 and not is_out(sign_in(made["password"]))


def test_a_password_on_standard_input_is_not_shown(token: str) -> None:
    new = "another staple for a horse"
    assert as_json("users", "password", EMAIL, "--password-stdin", stdin=f"{new}\n") == {
        "email": EMAIL,
        "sign_ins_ended": 1,
    }
    assert not is_out(sign_in(new))
    assert "at least 12" in refused("users", "password", EMAIL, "--password-stdin", stdin="short\n")
    assert "no password" in refused("users", "password", EMAIL, "--password-stdin", stdin="")


def test_nobody_is_not_found(db: Engine) -> None:
    for command in ("disable", "enable", "password"):
        assert "no@body.example" in refused("users", command, "no@body.example")


def test_the_first_administrator_is_an_operator_and_the_list_says_who_is(db: Engine) -> None:
    with transaction() as session:
        make_tenant(session, "acme")
    for name, role in (("mo", "moderator"), ("ada", "admin"), ("abe", "admin")):
        arguments = ("--tenant", "acme", "--role", role, "--password-stdin")
        made = as_json("users", "create", f"{name}@acme.example", *arguments, stdin=f"{PASSWORD}\n")
        assert made["operator"] == (name == "ada")
    assert [row["email"] for row in as_json("users", "list") if row["operator"]] == ["ada@acme.example"]
