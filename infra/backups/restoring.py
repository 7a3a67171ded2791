"""A service made of a backup again: its objects and its database, and what was in flight put back in order.

Into an empty database and an empty bucket only. A restore that was stopped goes on where it is run again: the database
remembers which backup it is of, until all is done. No process of the service may run meanwhile: one whose relay is seen
is refused, and until the end none starts (moderation/schema.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session

import migrations
from infra import schema
from infra.backups import contents, database, withdrawals
from infra.backups.contents import DATABASE, OBJECTS, Copied, Manifest
from infra.backups.making import COPIED_AT_ONCE, THREADS, Say
from infra.backups.places import Place
from infra.backups.withdrawals import Repeated, Withdrawals
from moderation import cases, db, dispatch, events, sealing
from moderation.errors import Conflict, DamagedBackup, NotFound
from moderation.leases import Lease
from moderation.retraining import runs
from moderation.schema import UNFINISHED_RESTORE
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.tables import Case, Endpoint, SignIn, TrainingRun
from moderation.vocabulary import OPERATOR, EventType, RunStatus

log = logging.getLogger(__name__)

NOTHING = timedelta(0)


@dataclass(frozen=True)
class Restored:
    """What came back. `settled` counts what was in flight, by what it was; `damaged` says what did not come back."""

    manifest: Manifest
    objects: int
    settled: dict[str, int]
    repeated: Repeated
    known_until: datetime | None
    damaged: list[str] = field(default_factory=list)


def restore(
    place: Place, storage: Storage, rules: Settings, backup: str | None, *, reuse_objects: bool, say: Say
) -> Restored:
    """Restore a backup, by default the newest. `reuse_objects`: the bucket may hold objects, which stay as they are.

    Raises Conflict where something is there already or runs, DamagedBackup, and ConfigurationError for want of a key or
    of pg_restore.
    """
    manifest = contents.chosen(place, backup)
    _refuse_unreadable(manifest)
    _refuse_running()
    withdrawn = withdrawals.read(place)
    begun = _begin(manifest)
    storage.ensure_bucket()
    if not (reuse_objects or begun.before) and storage.listed("", after="", limit=1):
        _forget_beginning()
        raise Conflict(
            f"The bucket {rules.s3_bucket} is not empty: restore into a new one. Say --reuse-objects where it is the "
            "one that was backed up, and lost nothing."
        )
    with TemporaryDirectory(prefix="telltale-restore-") as temporary:
        folder = Path(temporary)
        dump = contents.fetch(place, manifest, DATABASE, folder)
        listed = contents.read_listing(contents.fetch(place, manifest, OBJECTS, folder))
        say(f"Copying {manifest.objects} objects …")
        copying = _Copying(place, storage, folder, withdrawn.images(), reuse=reuse_objects or begun.before)
        copying.all(listed)
        if not begun.loaded:
            say("Loading the database …")
            _refuse_running()
            database.load(rules.database_url, dump, database.major(manifest.server))
            # A dump has no statistics: until autovacuum makes them, pages and the relay would be planned for no rows.
            with db.engine().begin() as connection:
                connection.execute(text("ANALYZE"))
        if not begun.proven:
            _check_rows(manifest)
    say("Putting in order what was in flight …")
    return _finish(manifest, withdrawn, copying)


def _refuse_unreadable(manifest: Manifest) -> None:
    """Before anything is touched."""
    if manifest.schema not in migrations.revisions():
        raise Conflict(
            f"The backup {manifest.id} is of a newer Telltale ({manifest.telltale}, schema {manifest.schema}): use it."
        )
    if lacking := sorted(set(manifest.secret_keys) - set(sealing.key_ids())):
        raise Conflict(sealing.missing(lacking))


def _refuse_running() -> None:
    """Its workers would act on what is not in order yet: they look whether it is only when they start.

    A relay that connects from now on offers them nothing until it is.
    """
    with db.glance() as session:
        if dispatch.last_signs(session):
            raise Conflict(
                "A relay is connected to the database: stop every process of the service, and run this again."
            )


@dataclass(frozen=True)
class _Begun:
    """What of this restore was done `before`, by one that was stopped: the database is loaded, and was proven."""

    before: bool
    loaded: bool
    proven: bool


def _begin(manifest: Manifest) -> _Begun:
    """Mark the database as being restored. Raises Conflict where it has tables of anything else."""
    with db.engine().begin() as connection:
        loaded = bool(database.tables(connection))
        connection.execute(text(f"CREATE TABLE IF NOT EXISTS {UNFINISHED_RESTORE} (backup text, proven boolean)"))
        row = connection.execute(text(f"SELECT backup, proven FROM {UNFINISHED_RESTORE}")).one_or_none()
        before = row is not None and row.backup == manifest.id
        if loaded and not before:
            used = f"an unfinished restore of the backup {row.backup}: finish that, or" if row else "in use:"
            raise Conflict(f"The database is {used} make a new one with `createdb` and set TELLTALE_DATABASE_URL.")
        if not before:
            connection.execute(text(f"DELETE FROM {UNFINISHED_RESTORE}"))
            connection.execute(text(f"INSERT INTO {UNFINISHED_RESTORE} VALUES (:id, false)"), {"id": manifest.id})
        return _Begun(before, loaded, before and bool(row and row.proven))


def _forget_beginning() -> None:
    with db.engine().begin() as connection:
        connection.execute(text(f"DROP TABLE {UNFINISHED_RESTORE}"))


class _Copying:
    """Objects on their way back into the bucket; `erased`: images whose bytes are not to come back."""

    def __init__(self, place: Place, storage: Storage, folder: Path, erased: frozenset[str], *, reuse: bool) -> None:
        self._place = place
        self._storage = storage
        self._folder = folder
        self._erased = erased
        self._reuse = reuse
        self.objects = 0
        self.damaged: list[str] = []

    def all(self, listed: Iterator[Copied]) -> None:
        """Copy them, several at a time; what is damaged is left out and said."""
        wanted = (each for each in listed if each.key.rpartition("/")[2] not in self._erased)
        with ThreadPoolExecutor(THREADS) as pool:
            while some := list(islice(wanted, COPIED_AT_ONCE)):
                wrong = [said for said in pool.map(self._copy, some) if said]
                self.damaged += wrong
                self.objects += len(some) - len(wrong)

    def _copy(self, each: Copied) -> str | None:
        if self._reuse and self._is_there(each):
            return None
        try:
            with contents.proven(self._place, each, self._folder) as file:
                self._storage.put_file(each.key, file, each.media_type)
        except DamagedBackup as error:
            return error.message
        return None

    def _is_there(self, each: Copied) -> bool:
        try:
            return self._storage.head(each.key).size == each.size
        except NotFound:
            return False


def _check_rows(manifest: Manifest) -> None:
    """Raise DamagedBackup where a table has not as many rows as it had; else that is known from now on."""
    with db.engine().begin() as connection:
        found = database.count_rows(connection)
        other = sorted(name for name in manifest.rows if found.get(name) != manifest.rows[name])
        if other:
            raise DamagedBackup(f"Of the database not all came back: {', '.join(other)}.")
        connection.execute(text(f"UPDATE {UNFINISHED_RESTORE} SET proven = true"))


def _finish(manifest: Manifest, withdrawn: Withdrawals, copying: _Copying) -> Restored:
    schema.bring_up_to_date(restoring=True)
    repeated = withdrawals.repeat(withdrawn.all)
    with db.transaction() as session:
        settled = settle(session)
        after = {"backup": manifest.id, "in_flight": settled, "withdrawn_again": repeated.done}
        events.record(session, EventType.SERVICE_RESTORED, tenant_id=None, actor=OPERATOR, after=after)
        session.execute(text(f"DROP TABLE {UNFINISHED_RESTORE}"))
    return Restored(manifest, copying.objects, settled, repeated, withdrawn.known_until, damaged=copying.damaged)


def settle(session: Session) -> dict[str, int]:
    """Put in order what was in flight when the backup was made, and return how many of each.

    Cases that a worker had begin anew, and that attempt does not count. A training run goes on with another worker.
    Endpoints are not blamed for the days between. Deliveries that are due, answers that take effect, and leases of
    people need nothing: their times are over. Everybody signs in anew: whoever signed out since must not be signed in.
    """
    return {
        "cases under way": _give_back_cases(session),
        "training runs": _release_runs(session),
        "endpoints that failed": _forgive_endpoints(session),
        "sign-ins ended": len(session.scalars(delete(SignIn).returning(SignIn.id)).all()),
    }


def _give_back_cases(session: Session) -> int:
    leased = session.scalars(select(Case).where(Case.lease_until.is_not(None)).order_by(Case.id)).all()
    for case in leased:
        cases.postpone(session, Lease(case.id, case.fence, case.attempts), NOTHING, counts=False)
    return len(leased)


def _release_runs(session: Session) -> int:
    running = session.scalars(select(TrainingRun).where(TrainingRun.status == RunStatus.RUNNING)).all()
    for run in running:
        runs.release(session, runs.Lease(run.id, run.fence))
    return len(running)


def _forgive_endpoints(session: Session) -> int:
    failing = update(Endpoint).where(Endpoint.disabled_at.is_(None), Endpoint.failing_since.is_not(None))
    return len(session.scalars(failing.values(failing_since=None, paused_until=None).returning(Endpoint.id)).all())
