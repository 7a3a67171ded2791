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


@tenants.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """List all tenants."""
    with transaction() as session:
        rows = listings.all_tenants(session)
    print_list(rows, as_json=as_json, none="There is no tenant yet: `telltale tenants create NAME` makes one.")
