"""Tombstones in snapshots: what training runs have written down of an image goes when the image does.

A snapshot is read, its examples of erased images become tombstones, and it is stored under the same digest; whoever
reads it then meets them no more: exports, repeated runs, the panel. Models that were trained before keep what they
learned; the next run begins anew on its base, without. It does not know why an image was erased.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from sqlalchemy import select, update

from moderation import db, events
from moderation.db import transaction
from moderation.errors import ConfigurationError, NotFound
from moderation.retraining import runs, snapshot
from moderation.storage import Storage, snapshot_key
from moderation.tables import Case, Image, Review, TrainingRun
from moderation.vocabulary import EventType

log = logging.getLogger(__name__)

# Any constant: whoever puts tombstones into snapshots holds this advisory lock, so that none is lost to another.
TOMBSTONE_LOCK = 4_207_332


def place(storage: Storage, images: Sequence[Image]) -> bool:
    """Put tombstones into every snapshot for these erased images; whether that is done: not while another does it.

    Doing it twice is harmless. Raises StorageUnavailable.
    """
    reviewed = _reviewed([image.id for image in images])
    if not reviewed:
        return True
    with db.turn(TOMBSTONE_LOCK) as mine:
        if mine:
            for digest in _digests():
                _place_in(storage, digest, reviewed)
    return mine


def place_in(storage: Storage, digest: str) -> bool:
    """Put tombstones into a snapshot that a run has just stored, for what was erased while it was taken.

    Whether that is done: not while another puts some, which may not have seen this one. Raises StorageUnavailable.
    """
    with db.turn(TOMBSTONE_LOCK) as mine:
        if mine:
            _place_in(storage, digest, _erased(example.image for example in snapshot.read(storage, digest).examples))
    return mine


def _erased(ids: Iterable[UUID]) -> set[UUID]:
    with transaction() as session:
        return set(session.scalars(select(Image.id).where(Image.id.in_([*ids]), Image.erased_at.is_not(None))))


def _reviewed(ids: Collection[UUID]) -> set[UUID]:
    """Those of these images that a snapshot may speak of: somebody has answered a case of them."""
    query = select(Case.image_id).join(Review, Review.case_id == Case.id).where(Case.image_id.in_(ids))
    with transaction() as session:
        return {id_ for id_ in session.scalars(query.distinct()) if id_ is not None}


def _digests() -> list[str]:
    with transaction() as session:
        kept = select(TrainingRun.snapshot_digest).where(TrainingRun.snapshot_key.is_not(None)).distinct()
        return [digest for digest in session.scalars(kept) if digest is not None]


def _place_in(storage: Storage, digest: str, images: Collection[UUID]) -> None:
    try:
        found = snapshot.read(storage, digest)
    except NotFound:
        return  # it has just been removed, being old
    except ConfigurationError as error:
        log.warning("snapshot %s is removed, for nothing can be taken out of it: %s", digest, error.message)
        _remove(storage, digest)
        return
    if any(example.image in images for example in found.examples):
        snapshot.redact(storage, found, images)
        log.info("snapshot %s has %d tombstones", digest, len(found.without(images).tombstones))
        _withdraw(storage, digest)


def _withdraw(storage: Storage, digest: str) -> None:
    """Remove it again where no run speaks of it any more: it went while it was being written."""
    if digest not in _digests():
        storage.delete(snapshot_key(digest))


def _remove(storage: Storage, digest: str) -> None:
    """Forget a snapshot; its runs keep the digest."""
    key = snapshot_key(digest)
    with transaction() as session:
        session.execute(update(TrainingRun).where(TrainingRun.snapshot_digest == digest).values(snapshot_key=None))
        events.record(session, EventType.SNAPSHOT_REMOVED, tenant_id=None, actor=runs.WORKER, after={"snapshot": key})
    storage.delete(key)
