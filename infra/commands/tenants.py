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


# Of a new tenant: enough to know after some thousands of cases how often the policy, and how often people, are wrong.
SECOND_OPINION_SHARE = 0.05
AUDIT_SHARE = 0.01


@tenants.command()
@click.argument("name")
@click.option("--allow-training", is_flag=True, help="Their reviewed images may be used to retrain the model.")
@click.option(
    "--second-opinion-share",
    type=float,
    default=SECOND_OPINION_SHARE,
    show_default=True,
    help="Of the cases that somebody answers: the share (0 to 1) that somebody else answers too.",
)
@click.option(
    "--audit-share",
    type=float,
    default=AUDIT_SHARE,
    show_default=True,
    help="Of the cases that the policy decides: the share (0 to 1) that a person looks at.",
)
@as_json_option
def create(name: str, allow_training: bool, second_opinion_share: float, audit_share: float, as_json: bool) -> None:
    """Create a tenant with the default policy."""
    shares = {"second_opinion_share": second_opinion_share, "audit_share": audit_share}
    with transaction() as session:
        tenant = platforms.create_tenant(session, name, allow_training=allow_training)
        platforms.change_tenant(session, tenant.id, shares)
    print_record({"id": tenant.id, "name": name, "allow_training": allow_training, **shares}, as_json=as_json)


@tenants.command("set")
@click.argument("name")
@click.option("--blind-share", type=float, help="Of coming reviews: the share (0 to 1) answered before the verdict.")
@click.option("--second-opinion-share", type=float, help="Of cases answered: the share somebody else answers too.")
@click.option("--audit-share", type=float, help="Of cases decided by the policy: the share a person looks at.")
def set_(name: str, **shares: float | None) -> None:
    """Change how closely a tenant's coming cases are looked at."""
    wanted = {share: value for share, value in shares.items() if value is not None}
    if not wanted:
        raise click.UsageError("Nothing to set: give --blind-share, --second-opinion-share or --audit-share.")
    with transaction() as session:
        tenant = platforms.tenant_named(session, name)
        platforms.change_tenant(session, tenant.id, wanted)
        session.flush()
        blind, second, audit = tenant.blind_share, tenant.second_opinion_share, tenant.audit_share
    click.echo(
        f"Of {name}'s reviews, {100 * blind:g}% are answered blind and {100 * second:g}% by somebody else too; "
        f"of what its policy decides, {100 * audit:g}% is looked at."
    )


@tenants.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """List all tenants."""
    with transaction() as session:
        rows = listings.all_tenants(session)
    print_list(rows, as_json=as_json, none="There is no tenant yet: `telltale tenants create NAME` makes one.")
