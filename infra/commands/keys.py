"""`telltale keys`: what a platform's programs sign in with."""

from __future__ import annotations

import click

from infra import listings
from infra.printing import as_json_option, print_list, print_once, print_record
from moderation import tenants
from moderation.db import transaction
from moderation.vocabulary import Scope

# What a platform's upload code needs, and no more.
DEFAULT_SCOPES = (Scope.SUBMISSIONS_WRITE, Scope.CASES_READ)


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.option("--tenant", required=True, help="Whose key it is.")
@click.option("--name", required=True, help="What it is for, such as `upload service`.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help=f"What it may do; give it several times. Default: {' and '.join(DEFAULT_SCOPES)}.",
)
@as_json_option
def create(tenant: str, name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Create a key; its token is shown once."""
    granted = [Scope(scope) for scope in scopes] or list(DEFAULT_SCOPES)
    with transaction() as session:
        owner = tenants.tenant_named(session, tenant)
        key, token = tenants.create_key(session, owner.id, name, granted)
    record = {"prefix": key.prefix, "tenant": tenant, "name": name, "scopes": key.scopes}
    print_once("key", token, record, as_json=as_json)


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
@as_json_option
def list_(tenant: str | None, as_json: bool) -> None:
    """List keys by their prefixes; the keys themselves are not stored."""
    with transaction() as session:
        rows = listings.keys(session, tenant)
    print_list(rows, as_json=as_json, none="There is no key yet: `telltale keys create` makes one.")


@keys.command()
@click.argument("prefix")
@as_json_option
def revoke(prefix: str, as_json: bool) -> None:
    """End a key at once, by its prefix. That is the part between the underscores."""
    with transaction() as session:
        key = tenants.revoke_key(session, prefix)
    print_record({"prefix": prefix, "name": key.name, "revoked_at": key.revoked_at}, as_json=as_json)
