"""What of past runs goes, by count and age: adapters, snapshots, folders, and the panel's scores of single images.

The newest KEEP of everything stay, and whatever is younger than AGE; the champion, the version before it, and the
snapshots of runs that were promoted or wait for a lead stay however old they are. Rows stay: what was decided and
measured is remembered, and only cannot be repeated.
"""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from moderation import events, model_versions
from moderation.db import transaction
from moderation.retraining import runs
from moderation.retraining.panel import KEEP_SCORES
from moderation.storage import Storage
from moderation.tables import ModelVersion, PanelMeasurement, TrainingRun
from moderation.vocabulary import EventType, RunStatus

log = logging.getLogger(__name__)

KEEP = 10
AGE = timedelta(days=30)
# Runs whose snapshot may be asked for: what judges was made of it, or may be.
NEEDED = (RunStatus.PROMOTED, RunStatus.KEPT, *runs.LIVE)


def clear_up(storage: Storage, folder: Path) -> None:
    """Remove what is old; rows first, so that whoever is killed in between leaves bytes, and no lies.

    Those bytes are orphans then, and swept (moderation/orphans.py). Raises StorageUnavailable.
    """
    gone = model_versions.remove(storage, keep=KEEP, older_than=AGE, actor=runs.WORKER)
    with transaction() as session:
        snapshots = _forget_snapshots(session)
        folders = _old_folders(session, folder)
        _forget_scores(session)
    for key in snapshots:
        storage.delete(key)
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
    log.info("removed %d adapters, %d snapshots, %d folders", len(gone), len(snapshots), len(folders))


def _forget_snapshots(session: Session) -> list[str]:
    """The keys of snapshots that may go; their runs keep the digest."""
    kept = select(TrainingRun).where(TrainingRun.snapshot_key.is_not(None)).order_by(TrainingRun.id.desc())
    found = session.scalars(kept.with_for_update()).all()
    old = [run for run in found[KEEP:] if _is_old(run) and run.status not in NEEDED]
    needed = {run.snapshot_key for run in found if run not in old}
    gone = sorted({run.snapshot_key for run in old if run.snapshot_key is not None} - needed)
    for run in old:
        run.snapshot_key = None
    for key in gone:
        events.record(session, EventType.SNAPSHOT_REMOVED, tenant_id=None, actor=runs.WORKER, after={"snapshot": key})
    return gone


def _old_folders(session: Session, folder: Path) -> list[Path]:
    """Folders of old runs, unless a version that may judge is loaded from there, as a full checkpoint is."""
    newest = {run.id for run in runs.latest(session, KEEP)}
    places = session.scalars(select(ModelVersion.checkpoint).where(ModelVersion.removed_at.is_(None))).all()
    found = session.scalars(select(TrainingRun).where(TrainingRun.id.not_in(newest))).all()
    old = [folder / str(run.id) for run in found if _is_old(run) and run.status not in runs.LIVE]
    return [path for path in old if path.is_dir() and not any(_is_below(place, path) for place in places)]


def _is_below(place: str, folder: Path) -> bool:
    return Path(place).is_relative_to(folder.resolve())


def _is_old(run: TrainingRun) -> bool:
    return (run.ended_at or datetime.now(UTC)) < datetime.now(UTC) - AGE


def _forget_scores(session: Session) -> None:
    """Beyond what the panel looks back to."""
    limit = datetime.now(UTC) - KEEP_SCORES
    session.execute(update(PanelMeasurement).where(PanelMeasurement.created_at < limit).values(scores=None))
