"""What a backup is: its manifest, the list of its objects, and which objects the rows of the database name.

Originals, pictures for the dashboard, adapters of model versions, and snapshots and reports of training runs. Left out:
uploads nobody has submitted, whose form is good for an hour, and forensic views, which are made anew when somebody
looks. It does not know how bytes come to a destination.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pydantic import TypeAdapter
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from infra.backups.places import MEDIA_TYPE, Place
from moderation import checkpoints, views
from moderation.errors import DamagedBackup, NotFound
from moderation.storage import Storage, adapter_key, report_key
from moderation.tables import Image, ModelVersion, TrainingRun
from moderation.vocabulary import ModelStage

# Of the layout and of every file here; one that is newer than the program is refused.
FORMAT = 1
ROOT = "backups/"
MANIFEST = "manifest.json"
DATABASE = "database.dump"
OBJECTS = "objects.jsonl.gz"
BLOBS = "objects/"
# These are written once under their key; others may have been written anew since they were copied.
ADAPTERS = "adapters/"
WRITTEN_ONCE = (ADAPTERS, "originals/", "renditions/")
ROWS_AT_ONCE = 5000
JSON = "application/json"
NAMED = 100  # of what is missing, so many are named in the manifest

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Wanted:
    """An object that a row names, and what the row says of its bytes, if it says."""

    key: str
    media_type: str
    sha256: str | None = None
    size: int | None = None
    # Nobody knows whether there is one.
    optional: bool = False


@dataclass(frozen=True)
class Copied:
    """An object of a backup; `size` in bytes."""

    key: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True)
class File:
    """A file of a backup; `size` in bytes."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup is. `made_at` is the moment of the database's state; all that was committed before is in it.

    `rows` counts the rows of each table. `secret_keys` are the ids of the keys that stored secrets need. `elsewhere`:
    checkpoints that are neither in the database nor in the bucket, by the name of their version. `missing`: objects
    that rows name and that were not in the store, or not what the row says; the first ones by name. `gone`: how many
    were erased while the backup was made.
    """

    telltale: str
    made_at: datetime
    finished_at: datetime
    server: str
    schema: str
    bucket: str
    database: File
    listing: File
    objects: int
    objects_bytes: int
    copied: int
    copied_bytes: int
    rows: dict[str, int]
    secret_keys: list[str]
    elsewhere: dict[str, str]
    missing: int = 0
    missing_named: list[str] = field(default_factory=list)
    gone: int = 0

    @property
    def id(self) -> str:
        """What the backup is called: its time."""
        return f"{self.made_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=2, default=datetime.isoformat).encode()


def read_manifest(place: Place, backup: str) -> Manifest:
    """The manifest of one backup. Raises NotFound, DamagedBackup."""
    try:
        said = json.loads(place.get(f"{ROOT}{backup}/{MANIFEST}"))
        if said.pop("format") > FORMAT:
            raise DamagedBackup(f"The backup {backup} is of a newer Telltale ({said['telltale']}): use that one.")
        return TypeAdapter(Manifest).validate_python(said)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedBackup(f"The manifest of the backup {backup} cannot be read: {error!r}") from error


def backups_of(place: Place) -> list[str]:
    """The whole backups of a destination, the newest first."""
    found = (name.removeprefix(ROOT).split("/") for name in place.names(ROOT))
    return sorted((parts[0] for parts in found if parts[1:] == [MANIFEST]), reverse=True)


def chosen(place: Place, backup: str | None) -> Manifest:
    """The manifest of a backup, by default of the newest. Raises NotFound, DamagedBackup."""
    there = backups_of(place)
    if not there:
        raise NotFound("The destination has no backup: `telltale backup` makes one.")
    if backup is not None and backup not in there:
        raise NotFound(f"The destination has no whole backup {backup}: it has {', '.join(there)}.")
    return read_manifest(place, backup or there[0])


def blob_name(sha256: str) -> str:
    """Where the bytes of this sha256 are."""
    return f"{BLOBS}{sha256[:2]}/{sha256}"


def write_listing(file: Path, copied: Iterable[Copied]) -> None:
    """Write the list of a backup's objects, which come in the order of their keys."""
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(each)) + "\n" for each in copied)


def read_listing(file: Path) -> Iterator[Copied]:
    """The objects of a backup, in the order of their keys. Raises DamagedBackup."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            each = Copied(**json.loads(line))
            if not _SHA256.fullmatch(each.sha256):
                raise DamagedBackup(f"{each.key} is listed with {each.sha256!r}, which is no sha256.")
            yield each


def fetch(place: Place, manifest: Manifest, name: str, folder: Path) -> Path:
    """A backup's file of this name, DATABASE or OBJECTS, proven, in a folder here. Raises DamagedBackup."""
    file = folder / name
    is_to_be = manifest.database if name == DATABASE else manifest.listing
    try:
        place.get_file(f"{ROOT}{manifest.id}/{name}", file)
    except NotFound as error:
        raise DamagedBackup(f"The backup {manifest.id} has no {name} any more.") from error
    if file_of(file) != is_to_be:
        raise DamagedBackup(f"{name} of the backup {manifest.id} is not what was written: use another backup.")
    return file


@contextmanager
def proven(place: Place, each: Copied, folder: Path) -> Iterator[Path]:
    """An object of a backup as a file in a folder here, while the block runs. Raises DamagedBackup."""
    file = folder / uuid4().hex
    try:
        place.get_file(blob_name(each.sha256), file)
        if file_of(file) != File(each.size, each.sha256):
            raise DamagedBackup(f"{each.key} is not what was written: {blob_name(each.sha256)}")
        yield file
    except NotFound:
        raise DamagedBackup(f"{each.key} is not there any more: {blob_name(each.sha256)}") from None
    finally:
        file.unlink(missing_ok=True)


def file_of(path: Path) -> File:
    """The size and the sha256 of a file."""
    with path.open("rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def wanted(session: Session) -> Iterator[Wanted]:
    """The objects that rows name, in the order of their keys; of an erased image none, of an adapter its inventory."""
    places = session.scalars(select(ModelVersion.checkpoint).where(ModelVersion.removed_at.is_(None)).distinct())
    for digest in sorted(filter(None, map(checkpoints.digest_of, places))):
        yield Wanted(adapter_key(digest, checkpoints.INVENTORY), JSON, digest)
    yield from _originals(session)
    yield from _renditions(session)
    for key in sorted(report_key(run) for run in session.scalars(select(TrainingRun.id))):
        yield Wanted(key, "text/html", optional=True)
    snapshots = select(TrainingRun.snapshot_key).where(TrainingRun.snapshot_key.is_not(None)).distinct()
    yield from (Wanted(key, JSON) for key in sorted(filter(None, session.scalars(snapshots))))


def with_files(storage: Storage, wanted: Iterable[Wanted]) -> Iterator[Wanted]:
    """The same, and of each adapter all files that the store has beside its inventory, still in the order of keys."""
    for each in wanted:
        folder, _, name = each.key.rpartition("/")
        if not each.key.startswith(ADAPTERS) or name != checkpoints.INVENTORY:
            yield each
            continue
        listed = storage.listed(f"{folder}/", after="", limit=checkpoints.MOST_FILES + 1)
        files = [Wanted(found.key, MEDIA_TYPE) for found in listed if found.key != each.key]
        yield from sorted([each, *files], key=lambda file: file.key)


def _originals(session: Session) -> Iterator[Wanted]:
    query = _live(Image.s3_key).with_only_columns(Image.s3_key, Image.media_type, Image.sha256, Image.bytes)
    return (Wanted(*row) for row in session.execute(query))


def _renditions(session: Session) -> Iterator[Wanted]:
    query = _live(Image.rendition_key).with_only_columns(Image.rendition_key)
    return (Wanted(key, views.MEDIA_TYPE) for key in session.scalars(query) if key is not None)


def _live(key: Any) -> Select[Any]:
    """Images that have such a key, in the order of keys that Python has too, whatever is the database's."""
    named = select(Image).where(key.is_not(None), Image.erased_at.is_(None))
    return named.order_by(key.collate("C")).execution_options(yield_per=ROWS_AT_ONCE)


def still_wanted(session: Session, key: str) -> bool:
    """Whether a row names this object now: what was erased since is not missed."""
    kind, _, rest = key.partition("/")
    if kind in ("originals", "renditions"):
        live = select(Image.id).where(Image.id == UUID(rest.rpartition("/")[2]), Image.erased_at.is_(None))
    elif kind == "adapters":
        place = checkpoints.PLACE + rest.partition("/")[0]
        live = select(ModelVersion.id).where(ModelVersion.checkpoint == place, ModelVersion.removed_at.is_(None))
    else:
        live = select(TrainingRun.id).where(TrainingRun.snapshot_key == key)
    return session.scalar(live.limit(1)) is not None


def checkpoints_elsewhere(session: Session) -> dict[str, str]:
    """Checkpoints of the champion and of challengers that no bucket holds, by the name of their version."""
    query = select(ModelVersion.name, ModelVersion.checkpoint).where(
        ModelVersion.removed_at.is_(None), ModelVersion.stage.in_((ModelStage.CHAMPION, ModelStage.CHALLENGER))
    )
    return {name: place for name, place in session.execute(query) if not checkpoints.digest_of(place)}
