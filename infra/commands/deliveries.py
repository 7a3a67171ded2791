"""`telltale deliveries`: what was sent to endpoints, and sending it again."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import click

from infra import listings
from infra.printing import as_json_option, print_list
from moderation import deliveries as sent
from moderation.db import transaction
from moderation.vocabulary import DeliveryStatus

when = click.DateTime(formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"])


@click.group()
def deliveries() -> None:
    """See what was sent to endpoints, and send it again."""


@deliveries.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--endpoint", "endpoint_id", type=click.UUID, help="Only to this endpoint.")
@click.option("--status", type=click.Choice([status.value for status in DeliveryStatus]))
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json_option
def list_(tenant: str | None, endpoint_id: UUID | None, status: str | None, limit: int, as_json: bool) -> None:
    """List the newest deliveries, each with its last answer."""
    wanted = DeliveryStatus(status) if status else None
    with transaction() as session:
        rows = listings.deliveries(session, tenant=tenant, endpoint_id=endpoint_id, status=wanted, limit=limit)
    print_list(rows, as_json=as_json, none="No delivery.", only_json=("case", "created_at", "delivered_at"))


@deliveries.command()
@click.argument("delivery_id", type=click.UUID, required=False)
@click.option("--endpoint", "endpoint_id", type=click.UUID, help="Instead of one delivery: all of an endpoint's …")
@click.option("--since", type=when, help="… from this time on (UTC) …")
@click.option("--until", type=when, help="… and before this time (UTC); default: now.")
def replay(delivery_id: UUID | None, endpoint_id: UUID | None, since: datetime | None, until: datetime | None) -> None:
    """Send one delivery again, or all of a time range. The receiver sees the same ids."""
    if delivery_id is not None and endpoint_id is None and since is None and until is None:
        count = _replay_one(delivery_id)
    elif delivery_id is None and endpoint_id is not None and since is not None:
        count = _replay_range(endpoint_id, since, until)
    else:
        raise click.UsageError("Give either a DELIVERY_ID, or --endpoint and --since.")
    click.echo(f"{count} {'delivery' if count == 1 else 'deliveries'} will be sent again.")


def _replay_one(delivery_id: UUID) -> int:
    with transaction(wake=True) as session:
        sent.replay(session, listings.delivery_with(session, delivery_id))
    return 1


def _replay_range(endpoint_id: UUID, since: datetime, until: datetime | None) -> int:
    last = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    with transaction(wake=True) as session:
        endpoint = listings.endpoint_with(session, endpoint_id)
        return sent.replay_range(session, endpoint, since.replace(tzinfo=UTC), last)
