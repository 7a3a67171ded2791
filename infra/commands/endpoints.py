"""`telltale endpoints`: where a tenant's events are sent."""

from __future__ import annotations

from uuid import UUID

import click

from infra import listings
from infra.printing import as_json_option, print_list, print_once, print_record
from moderation import endpoints as receivers
from moderation import tenants
from moderation.db import transaction
from moderation.settings import settings
from moderation.vocabulary import OUTBOUND


@click.group()
def endpoints() -> None:
    """Create and list endpoints: where events are sent."""


@endpoints.command()
@click.option("--tenant", required=True, help="Whose events are sent there.")
@click.option("--url", required=True, help="Where to; http or https, at a public address.")
@click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice(sorted(event.value for event in OUTBOUND)),
    help="Which events; give it several times. Default: all.",
)
@as_json_option
def create(tenant: str, url: str, events: tuple[str, ...], as_json: bool) -> None:
    """Create an endpoint. The secret its deliveries are signed with is shown once."""
    with transaction() as session:
        owner = tenants.tenant_named(session, tenant)
        endpoint = receivers.create(session, owner.id, url, list(events), settings())
    print_once("secret", receivers.secrets_of(endpoint)[0], listings.endpoint_row(endpoint, tenant), as_json=as_json)


@endpoints.command("list")
@click.option("--tenant", help="Only this tenant's.")
@as_json_option
def list_(tenant: str | None, as_json: bool) -> None:
    """List endpoints, and whether events arrive there."""
    with transaction() as session:
        rows = listings.endpoints(session, tenant)
    print_list(rows, as_json=as_json, none="There is no endpoint yet: `telltale endpoints create` makes one.")


@endpoints.command()
@click.argument("endpoint_id", type=click.UUID)
@as_json_option
def ping(endpoint_id: UUID, as_json: bool) -> None:
    """Send a test event. `telltale deliveries list` then shows whether it arrived."""
    with transaction(wake=True) as session:
        endpoint = listings.endpoint_with(session, endpoint_id)
        delivery = receivers.ping(session, endpoint)
    print_record({"delivery": delivery.id, "url": endpoint.url}, as_json=as_json)


@endpoints.command()
@click.argument("endpoint_id", type=click.UUID)
@as_json_option
def enable(endpoint_id: UUID, as_json: bool) -> None:
    """Start sending again; what is pending goes out now."""
    with transaction(wake=True) as session:
        endpoint = listings.endpoint_with(session, endpoint_id)
        receivers.enable(session, endpoint)
    print_record({"id": endpoint.id, "url": endpoint.url, "state": "enabled"}, as_json=as_json)


@endpoints.command("rotate-secret")
@click.argument("endpoint_id", type=click.UUID)
@as_json_option
def rotate_secret(endpoint_id: UUID, as_json: bool) -> None:
    """Make a new secret, shown once. Until the next rotation deliveries are signed with the old one too."""
    with transaction() as session:
        endpoint = listings.endpoint_with(session, endpoint_id)
        secret = receivers.rotate_secret(session, endpoint)
    print_once("secret", secret, {"id": endpoint.id, "url": endpoint.url}, as_json=as_json)
