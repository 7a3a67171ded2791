"""Making a backup: the database as of one moment, then the objects that it names, then the manifest.

In that order: bytes are stored before the rows that speak of them, so all that is named is there, unless it has been
erased meanwhile. Objects that the backup before has are not read again. The service runs on; only a migration has to
wait for the dump.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from infra.backups import contents, database, withdrawals
from infra.backups.contents import BLOBS, DATABASE, MANIFEST, NAMED, OBJECTS, ROOT, Copied, Manifest, Wanted, blob_name
from infra.backups.places import Place
from moderation import db, keyring
from moderation.errors import Conflict, DamagedBackup, NotFound
from moderation.settings import Settings
from moderation.storage import Storage

log = logging.getLogger(__name__)

# Any constants: one backup, or one pruning, is made at a time, and meanwhile the list of withdrawals is written by one.
TURN, TURN_OF_WITHDRAWALS = 4_207_312, 4_207_313
THREADS = 8
COPIED_AT_ONCE = 200
Say = Callable[[str], None]


@dataclass(frozen=True)
class _State:
    """What is read of the database in one moment."""

    made_at: datetime
    server: str
    schema: str
    rows: dict[str, int]
    secret_keys: list[str]
    elsewhere: dict[str, str]


def make(place: Place, storage: Storage, rules: Settings, *, full: bool, say: Say) -> Manifest:
    """Make a backup, and bring the list of withdrawals up to date; `full`: copy every object anew.

    Raises Conflict for an empty or half restored database and while another is made, ConfigurationError for want of
    pg_dump.
    """
    with _alone(), TemporaryDirectory(prefix="telltale-backup-") as temporary:
        folder = Path(temporary)
        say("Dumping the database …")
        state = _dump(rules, folder)
        before = contents.backups_of(place)
        _refuse_same(before, state)
        known = _listed_before(place, before, folder) if before and not full else iter(())
        say("Copying objects …")
        copying = _Copying(place, storage, known, folder, full=full)
        contents.write_listing(folder / OBJECTS, copying.all(contents.with_files(storage, _spooled(folder / WANTED))))
        manifest = _manifest(state, copying, rules, folder)
        for name in (DATABASE, OBJECTS):
            place.put_file(f"{ROOT}{manifest.id}/{name}", folder / name)
        place.put(f"{ROOT}{manifest.id}/{MANIFEST}", manifest.to_bytes())
        keep_withdrawals(place)
        return manifest


WANTED = "wanted.jsonl"


@contextmanager
def _alone() -> Iterator[None]:
    with db.turn(TURN) as mine:
        if not mine:
            raise Conflict("Another backup is being made right now.")
        yield


def keep_withdrawals(place: Place) -> withdrawals.Withdrawals:
    """Bring the list of withdrawals up to date, unless somebody is doing that; as it is then. Raises Conflict."""
    with db.turn(TURN_OF_WITHDRAWALS) as mine:
        return withdrawals.keep(place, _oldest(place)) if mine else withdrawals.read(place)


def _oldest(place: Place) -> datetime:
    """When the oldest whole backup was made; now, where there is none."""
    there = contents.backups_of(place)
    return contents.read_manifest(place, there[-1]).made_at if there else datetime.now(UTC)


def _dump(rules: Settings, folder: Path) -> _State:
    """Dump the database, and list what it names in that very moment; nothing is held open longer."""
    repeatable = db.engine().execution_options(isolation_level="REPEATABLE READ")
    with Session(repeatable) as session, session.begin():
        session.execute(text("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"))
        snapshot = session.scalars(select(func.pg_export_snapshot())).one()
        withdrawals.refuse_unfit(session)
        server = database.server_version(session.connection())
        database.dump(rules.database_url, snapshot, folder / DATABASE, database.major(server))
        with (folder / WANTED).open("w") as spool:
            spool.writelines(json.dumps(asdict(each)) + "\n" for each in contents.wanted(session))
        return _State(
            made_at=session.scalars(select(func.now())).one(),
            server=server,
            schema=session.scalars(text("SELECT version_num FROM alembic_version")).one(),
            rows=database.count_rows(session.connection()),
            secret_keys=sorted(filter(None, keyring.use(session))),
            elsewhere=contents.checkpoints_elsewhere(session),
        )


def _spooled(file: Path) -> Iterator[Wanted]:
    with file.open() as lines:
        yield from (Wanted(**json.loads(line)) for line in lines)


def _refuse_same(before: list[str], state: _State) -> None:
    if f"{state.made_at.astimezone(UTC):%Y%m%dT%H%M%SZ}" in before:
        raise Conflict("A backup of this second is there already.")


def _listed_before(place: Place, before: list[str], folder: Path) -> Iterator[Copied]:
    manifest = contents.read_manifest(place, before[0])
    (folder / "before").mkdir()
    return contents.read_listing(contents.fetch(place, manifest, OBJECTS, folder / "before"))


class _Copying:
    """Objects on their way to a place. `known`: those of the backup before, in the order of their keys.

    Bytes that are there already, such as those of a backup that was killed, are not copied again, unless all are.
    """

    def __init__(self, place: Place, storage: Storage, known: Iterator[Copied], folder: Path, *, full: bool) -> None:
        self._full = full
        self._place = place
        self._storage = storage
        self._known = known
        self._next = next(known, None)
        self._folder = folder
        self.objects = self.bytes = self.copied = self.copied_bytes = self.gone = self.missing = 0
        self.missing_named: list[str] = []

    def all(self, wanted: Iterable[Wanted]) -> Iterator[Copied]:
        """Copy them, several at a time; gives back in their order those that are in the backup now."""
        its = ((each, self._before(each.key)) for each in wanted)
        with ThreadPoolExecutor(THREADS) as pool:
            while some := list(islice(its, COPIED_AT_ONCE)):
                for (each, known), copied in zip(some, pool.map(self._copied, some), strict=True):
                    if copied is not None:
                        self._count(copied, new=copied is not known)
                        yield copied
                    elif not each.optional:
                        self._miss(each)

    def _before(self, key: str) -> Copied | None:
        while self._next is not None and self._next.key < key:
            self._next = next(self._known, None)
        return self._next if self._next is not None and self._next.key == key else None

    def _copied(self, one: tuple[Wanted, Copied | None]) -> Copied | None:
        """The object as it is in the backup; None where the store does not have it, or not as its row says."""
        each, known = one
        if known and each.key.startswith(contents.WRITTEN_ONCE) and each.sha256 in (None, known.sha256):
            return known
        if not self._full and each.sha256 and each.size is not None and self._place.has(blob_name(each.sha256)):
            return Copied(each.key, each.media_type, each.size, each.sha256)
        file = self._folder / uuid4().hex
        try:
            self._storage.get_file(each.key, file, max_bytes=sys.maxsize)
            found = contents.file_of(file)
            if each.sha256 not in (None, found.sha256):
                log.error("%s is not what its row says: its sha256 is %s", each.key, found.sha256)
                return None
            self._place.put_file(blob_name(found.sha256), file)
        except NotFound:
            return None
        finally:
            file.unlink(missing_ok=True)
        return Copied(each.key, each.media_type, found.size, found.sha256)

    def _count(self, copied: Copied, *, new: bool) -> None:
        self.objects += 1
        self.bytes += copied.size
        self.copied += new
        self.copied_bytes += copied.size * new

    def _miss(self, each: Wanted) -> None:
        with db.transaction() as session:
            if not contents.still_wanted(session, each.key):
                self.gone += 1
                return
        self.missing += 1
        self.missing_named += [each.key] if self.missing <= NAMED else []


def _manifest(state: _State, copying: _Copying, rules: Settings, folder: Path) -> Manifest:
    return Manifest(
        telltale=version("telltale"),
        finished_at=datetime.now(UTC),
        bucket=rules.s3_bucket,
        database=contents.file_of(folder / DATABASE),
        listing=contents.file_of(folder / OBJECTS),
        objects=copying.objects,
        objects_bytes=copying.bytes,
        copied=copying.copied,
        copied_bytes=copying.copied_bytes,
        missing=copying.missing,
        missing_named=copying.missing_named,
        gone=copying.gone,
        **vars(state),
    )


def prune(place: Place, keep: int) -> list[str]:
    """Remove all backups but the newest `keep`, and then what no backup names; the backups that went."""
    with _alone(), TemporaryDirectory(prefix="telltale-backup-") as temporary:
        there = contents.backups_of(place)
        stay, go = there[:keep], there[keep:]
        place.delete([f"{ROOT}{backup}/{MANIFEST}" for backup in go])  # first, so that none is ever half there
        unfinished = [name for name in place.names(ROOT) if name.removeprefix(ROOT).split("/")[0] not in stay]
        place.delete(unfinished)
        named = {blob_name(each.sha256) for backup in stay for each in _objects_of(place, backup, Path(temporary))}
        _sweep(place, named)
        return go


def _objects_of(place: Place, backup: str, folder: Path) -> Iterator[Copied]:
    return contents.read_listing(contents.fetch(place, contents.read_manifest(place, backup), OBJECTS, folder))


def _sweep(place: Place, named: set[str]) -> None:
    loose = (name for name in place.names(BLOBS) if name not in named)
    while some := list(islice(loose, COPIED_AT_ONCE)):
        place.delete(some)


def damaged(place: Place, manifest: Manifest) -> Iterator[str]:
    """Read all of a backup, and say of each part that is not what was written what is wrong with it.

    Raises DamagedBackup where the database's dump or the list of objects is not, for then there is no more to look at.
    """
    with TemporaryDirectory(prefix="telltale-backup-") as temporary:
        folder = Path(temporary)
        contents.fetch(place, manifest, DATABASE, folder).unlink()
        listed = contents.read_listing(contents.fetch(place, manifest, OBJECTS, folder))
        with ThreadPoolExecutor(THREADS) as pool:
            while some := list(islice(listed, COPIED_AT_ONCE)):
                yield from filter(None, pool.map(partial(_damage, place, folder), some))


def _damage(place: Place, folder: Path, each: Copied) -> str | None:
    try:
        with contents.proven(place, each, folder):
            return None
    except DamagedBackup as error:
        return error.message
