"""`telltale users`: the people who review, lead and administer."""

from __future__ import annotations

import secrets
import sys

import click

from infra import listings
from infra.printing import as_json_option, print_list, print_record
from moderation import accounts, members, tenants
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.vocabulary import Role

# In events: whoever may run commands here.
ACTOR = "operator"
tenant_option = click.option("--tenant", required=True, help="For whom they work.")
role_option = click.option(
    "--role", required=True, type=click.Choice([role.value for role in Role]), help="What they may do there."
)


@click.group()
def users() -> None:
    """Create, list, disable and enable moderators, leads and administrators."""


@users.command()
@click.argument("email")
@tenant_option
@role_option
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@as_json_option
def create(email: str, tenant: str, role: str, password_stdin: bool, as_json: bool) -> None:
    """Create a person who can sign in. The password is asked for, never an option: those end up in histories.

    The first administrator of a deployment that has no operator is one: somebody must be told of training runs, and
    act on them. `telltale users operator EMAIL --revoke` undoes it.
    """
    with transaction() as session:
        tenants.tenant_named(session, tenant)
    password = _from_stdin() if password_stdin else click.prompt("Password", hide_input=True, confirmation_prompt=True)
    with transaction() as session:
        owner = tenants.tenant_named(session, tenant)
        user = tenants.create_user(session, email, password)
        tenants.add_member(session, user, owner, Role(role))
        operator = Role(role) is Role.ADMIN and accounts.make_first_operator(session, user, actor=ACTOR)
    made = {"id": user.id, "email": user.email, "tenant": tenant, "role": role, "operator": operator}
    print_record(made, as_json=as_json)


def _from_stdin() -> str:
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise InvalidRequest("There is no password on standard input.")
    return password


@users.command()
@click.argument("email")
@tenant_option
@role_option
@as_json_option
def grant(email: str, tenant: str, role: str, as_json: bool) -> None:
    """Let a person work for a tenant, or change their role there.

    Who made their account may still know its first password: where that is another tenant's administrator, give them a
    new one first, with `telltale users password`.
    """
    with transaction() as session:
        user = listings.user_with(session, email)
        tenants.add_member(session, user, tenants.tenant_named(session, tenant), Role(role))
    print_record({"email": user.email, "tenant": tenant, "role": role}, as_json=as_json)


@users.command()
@click.argument("email")
@click.option("--revoke", is_flag=True, help="No longer.")
@as_json_option
def operator(email: str, revoke: bool, as_json: bool) -> None:
    """Let a lead decide about models, for every tenant at once.

    That is which model version judges, and what becomes of training runs.
    """
    with transaction() as session:
        user = listings.user_with(session, email)
        accounts.set_operator(session, user, not revoke, actor=ACTOR)
    print_record({"email": user.email, "operator": not revoke}, as_json=as_json)


@users.command()
@click.argument("email")
@as_json_option
def disable(email: str, as_json: bool) -> None:
    """Close an account. Every sign-in ends, and what the person has in hand goes back to the others."""
    with transaction() as session:
        user = listings.user_with(session, email)
        ended = accounts.disable(session, user, actor=ACTOR)
        returned = members.give_back_all(session, user.id, actor=ACTOR)
    done = {"sign_ins_ended": ended, "claims_ended": returned.claims, "assignments_ended": returned.assignments}
    print_record({"email": user.email, "disabled": True, **done}, as_json=as_json)


@users.command()
@click.argument("email")
@as_json_option
def enable(email: str, as_json: bool) -> None:
    """Open an account again, with the password and the roles it had."""
    with transaction() as session:
        user = listings.user_with(session, email)
        accounts.enable(session, user, actor=ACTOR)
    print_record({"email": user.email, "disabled": False}, as_json=as_json)


@users.command()
@click.argument("email")
@click.option("--password-stdin", is_flag=True, help="Read the new password from standard input; else one is made.")
@as_json_option
def password(email: str, password_stdin: bool, as_json: bool) -> None:
    """Give a person a new password. It is shown once where it is made here; every sign-in of theirs ends."""
    new = _from_stdin() if password_stdin else secrets.token_urlsafe(members.PASSWORD_BYTES)
    with transaction() as session:
        user = listings.user_with(session, email)
        ended = accounts.set_password(session, user, new, actor=ACTOR)
    shown = {} if password_stdin else {"password": new}
    print_record({"email": user.email, **shown, "sign_ins_ended": ended}, as_json=as_json)


@users.command("list")
@click.option("--tenant", help="Only this tenant's.")
@as_json_option
def list_(tenant: str | None, as_json: bool) -> None:
    """List people and their roles. There is a line for each tenant they belong to."""
    with transaction() as session:
        rows = listings.users(session, tenant)
    print_list(rows, as_json=as_json, none="There is no user yet: `telltale users create` makes one.")
