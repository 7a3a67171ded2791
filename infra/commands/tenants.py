"""`telltale tenants`: the platforms that send images."""

from __future__ import annotations

import click

from infra import listings
from infra.printing import as_json_option, print_list, print_record
from moderation import tenants as platforms
from moderation.db import transaction


@click.group()
def tenants() -> None:
    """Create and list tenants: the platforms that send images."""


@tenants.command()
@click.argument("name")
@click.option("--allow-training", is_flag=True, help="Their reviewed images may be used to retrain the model.")
@as_json_option
def create(name: str, allow_training: bool, as_json: bool) -> None:
    """Create a tenant with the default policy."""
    with transaction() as session:
        tenant = platforms.create_tenant(session, name, allow_training=allow_training)
    print_record({"id": tenant.id, "name": name, "allow_training": allow_training}, as_json=as_json)


@tenants.command("set")
@click.argument("name")
@click.option("--blind-share", type=float, required=True, help="Of coming reviews: the share (0 to 1) answered blind.")
def set_(name: str, blind_share: float) -> None:
    """Change how a tenant's cases are reviewed: answered blind means before the verdict is shown."""
    with transaction() as session:
        platforms.set_blind_share(platforms.tenant_named(session, name), blind_share)
    click.echo(f"Of {name}'s reviews, {blind_share:.0%} are answered blind.")


@tenants.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """List all tenants."""
    with transaction() as session:
        rows = listings.all_tenants(session)
    print_list(rows, as_json=as_json, none="There is no tenant yet: `telltale tenants create NAME` makes one.")
