"""`telltale restore`: makes a service of a backup again, in an empty database and an empty bucket."""

from __future__ import annotations

from typing import Any

import click
from sqlalchemy import func, select

from infra.backups import places, restoring
from infra.backups.restoring import Restored
from infra.commands.backup import endpoint_option, place_at_work, region_option, say
from infra.commands.up import ends_on_signals
from infra.printing import as_json_option, print_json, print_list
from moderation.db import transaction
from moderation.errors import DamagedBackup
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Delivery
from moderation.vocabulary import DeliveryStatus

SHOWN = (
    *("tenants", "users", "api_keys", "sources", "endpoints", "model_versions"),
    *("cases", "images", "verdicts", "reviews", "events", "deliveries", "training_runs"),
)


@click.command()
@click.argument("source")
@endpoint_option
@region_option
@click.option("--backup", help="Which one, by its time as `telltale backup SOURCE --list` shows it; else the newest.")
@click.option("--reuse-objects", is_flag=True, help="The bucket is the one that was backed up: what it has stays.")
@as_json_option
def restore(
    source: str, endpoint_url: str | None, region: str | None, backup: str | None, reuse_objects: bool, as_json: bool
) -> None:
    """Restore the backup in SOURCE, a folder or s3://bucket/prefix, into the database and the bucket of the settings.

    Both must be empty, and no process of the service may run until it is done. What was erased, revoked or closed
    after the backup was made is taken back again, as far as SOURCE knows of it. docs/backup.md has more.
    """
    place = places.place_of(source, settings(), endpoint_url=endpoint_url, region=region)
    with ends_on_signals(), place_at_work():
        done = restoring.restore(place, Storage(settings()), settings(), backup, reuse_objects=reuse_objects, say=say)
    if as_json:
        print_json(_record(done))
    else:
        print_list(_table(done), as_json=False, none="")
        click.echo(_known(done))
    for said in (*done.repeated.refused, *done.damaged):
        click.echo(said, err=True)
    for name, checkpoint in done.manifest.elsewhere.items():
        click.echo(f"{name} is not part of a backup: see that {checkpoint} is there for the workers.", err=True)
    if done.damaged:
        raise DamagedBackup(f"All was restored but {len(done.damaged)} objects, which the backup has no more.")


def _record(done: Restored) -> dict[str, Any]:
    return {
        "backup": done.manifest.id,
        "rows": done.manifest.rows,
        "objects": done.objects,
        "in_flight": done.settled,
        "withdrawn_again": done.repeated.done,
        "withdrawals_known_until": done.known_until,
        "not_withdrawn": done.repeated.refused,
        "missing": done.manifest.missing,
        "damaged": done.damaged,
    }


def _table(done: Restored) -> list[dict[str, Any]]:
    rows = [(name.replace("_", " "), done.manifest.rows[name], "") for name in SHOWN if name in done.manifest.rows]
    rows += [
        ("objects", done.objects, f"{done.manifest.missing} were missing already" if done.manifest.missing else "")
    ]
    rows += [(f"cases {name}", count, "") for name, count in _statuses().items()]
    rows += [("deliveries due", _due(), "sent when delivery workers start")]
    rows += [(name, count, "put in order") for name, count in done.settled.items() if count]
    rows += [(f"{kind}s", count, "taken back again") for kind, count in done.repeated.done.items() if count]
    return [{"what": what, "count": count, "note": note} for what, count, note in rows]


def _statuses() -> dict[str, int]:
    with transaction() as session:
        counted = session.execute(select(Case.status, func.count()).group_by(Case.status).order_by(Case.status))
        return {status.value.replace("_", " "): count for status, count in counted}


def _due() -> int:
    with transaction() as session:
        pending = select(func.count()).select_from(Delivery).where(Delivery.status == DeliveryStatus.PENDING)
        return session.scalars(pending).one()


def _known(done: Restored) -> str:
    made = f"The backup is of {done.manifest.made_at:%Y-%m-%d %H:%M:%S} UTC."
    if done.known_until is None:
        return f"{made} What was erased or revoked since is not known: it has to be done again."
    return f"{made} What was erased or revoked is known until {done.known_until:%Y-%m-%d %H:%M:%S} UTC."
