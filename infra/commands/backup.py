"""`telltale backup`: copies the database and the objects that it names to a folder or another bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from infra.backups import contents, making, places
from infra.backups.contents import Manifest
from infra.backups.places import Place
from infra.commands.up import ends_on_signals
from infra.printing import as_json_option, print_list, print_record
from moderation.errors import ConfigurationError, DamagedBackup
from moderation.settings import settings
from moderation.storage import Storage

endpoint_option = click.option(
    "--endpoint-url", help="Where the bucket is another store's; its credentials are in AWS_PROFILE or AWS_* then."
)
region_option = click.option("--region", help="Of the bucket, where it is not that of TELLTALE_S3_REGION.")


@click.command()
@click.argument("destination")
@endpoint_option
@region_option
@click.option("--keep", type=click.IntRange(min=1), help="Afterwards, remove all backups but the newest so many.")
@click.option("--full", is_flag=True, help="Copy every object, also those that the backup before has.")
@click.option("--withdrawals", is_flag=True, help="Only write down what was erased and revoked; every few minutes.")
@click.option("--verify", is_flag=True, help="Make none: read the newest, or that of --backup, and prove every byte.")
@click.option("--backup", help="Of --verify: which one, by its time as --list shows it.")
@click.option("--list", "list_", is_flag=True, help="Make none: show what there is.")
@as_json_option
def backup(
    destination: str,
    endpoint_url: str | None,
    region: str | None,
    keep: int | None,
    full: bool,
    withdrawals: bool,
    verify: bool,
    backup: str | None,
    list_: bool,
    as_json: bool,
) -> None:
    """Back up the database and the objects that it names to DESTINATION: a folder, or s3://bucket/prefix.

    The service runs on meanwhile. Keys that secrets are encrypted with (TELLTALE_SECRET_KEYS) are not part of a backup:
    keep them elsewhere. docs/backup.md has more.
    """
    if withdrawals + verify + list_ > 1:
        raise click.UsageError("Say one of --withdrawals, --verify and --list.")
    if backup is not None and not verify:
        raise click.UsageError("--backup is for --verify.")
    place = places.place_of(destination, settings(), endpoint_url=endpoint_url, region=region)
    with ends_on_signals(), place_at_work():
        if list_:
            _list(place, as_json=as_json)
        elif verify:
            _verify(place, backup, as_json=as_json)
        elif withdrawals:
            _keep_withdrawals(place, as_json=as_json)
        else:
            _make(place, keep, full=full, as_json=as_json)


@contextmanager
def place_at_work() -> Iterator[None]:
    """What a disk refuses, such as for want of room, is said in one line."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"Not finished: {error}") from error


def _make(place: Place, keep: int | None, *, full: bool, as_json: bool) -> None:
    made = making.make(place, Storage(settings()), settings(), full=full, say=say)
    gone = making.prune(place, keep) if keep else []
    print_record(_shown(made) | {"removed": gone}, as_json=as_json)
    for key in made.missing_named:
        click.echo(f"Not in the store, or not what its row says: {key}", err=True)
    if made.missing:
        raise DamagedBackup(
            f"The backup {made.id} is whole but for {made.missing} objects that the store itself has lost, or has "
            "other bytes of."
        )


def _shown(manifest: Manifest) -> dict[str, Any]:
    return {
        "backup": manifest.id,
        "cases": manifest.rows["cases"],
        "images": manifest.rows["images"],
        "database": size(manifest.database.size),
        "objects": manifest.objects,
        "objects_size": size(manifest.objects_bytes),
        "copied": manifest.copied,
        "copied_size": size(manifest.copied_bytes),
        "gone_meanwhile": manifest.gone,
        "missing": manifest.missing,
        "schema": manifest.schema,
        "needs_keys": manifest.secret_keys,
        "checkpoints_elsewhere": [f"{name}: {place}" for name, place in manifest.elsewhere.items()],
    }


def _list(place: Place, *, as_json: bool) -> None:
    found = [contents.read_manifest(place, name) for name in contents.backups_of(place)]
    if as_json:
        print_list([{"backup": each.id} | asdict(each) for each in found], as_json=True, none="")
        return
    wide = ("schema", "needs_keys", "checkpoints_elsewhere", "gone_meanwhile", "copied")
    print_list(
        [{"backup": each.id, "telltale": each.telltale} | _shown(each) for each in found],
        as_json=False,
        none="There is no backup yet: `telltale backup DESTINATION` makes one.",
        only_json=wide,
    )


def _verify(place: Place, name: str | None, *, as_json: bool) -> None:
    manifest = contents.chosen(place, name)
    found = list(making.damaged(place, manifest))
    print_record({"backup": manifest.id, "objects": manifest.objects, "damaged": len(found)}, as_json=as_json)
    for said in found:
        click.echo(said, err=True)
    if found:
        raise DamagedBackup("Make a backup with --full, which copies every object anew, and look for what is wrong.")


def _keep_withdrawals(place: Place, *, as_json: bool) -> None:
    kept = making.keep_withdrawals(place)
    print_record({"known_until": kept.known_until, "withdrawals": len(kept.all)}, as_json=as_json)


def say(line: str) -> None:
    """What is being done, beside the result."""
    click.echo(line, err=True)


def size(count: int) -> str:
    """Bytes for people."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if unit != "B" else f"{count} B"
