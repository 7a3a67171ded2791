"""The bytes as they were sent: kept once per tenant and sha256, until they are erased (moderation/erasure.py).

Bytes go to the object store before any row speaks of them, under a key that never changes; a row that commits therefore
always has its bytes. It does not know what an image shows or whose case it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Table, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation.db import autonomous, new_id, transaction
from moderation.errors import Conflict, NotFound, StorageUnavailable
from moderation.events import Rows
from moderation.images import ImageFacts
from moderation.storage import Storage, original_key, rendition_key, view_key
from moderation.tables import Image, ImageHash, SimilarImage, Upload, written
from moderation.vocabulary import View

log = logging.getLogger(__name__)

PURGED_AT_ONCE = 500
# Made once: every submission asks.
_IS_LIVE = Image.tenant_id == bindparam("tenant"), Image.sha256 == bindparam("sha256"), Image.erased_at.is_(None)
_KNOWN = select(Image.id, Image.s3_key).where(*_IS_LIVE)
_LOCKED = select(Image).where(*_IS_LIVE).with_for_update(read=True)
_INSERT = insert(cast(Table, Image.__table__)).on_conflict_do_nothing().returning(Image.id)
_NEW = """image AS (
    INSERT INTO images (id, tenant_id, sha256, s3_key, media_type, width, height, frames, bytes)
    VALUES (:image, :tenant, :sha256, :s3_key, :media_type, :width, :height, :frames, :bytes)
)"""


@dataclass(frozen=True)
class Original:
    """Bytes that are in the store, and not yet in any row (unless the tenant had sent them before)."""

    image_id: UUID
    tenant_id: UUID
    s3_key: str
    facts: ImageFacts
    size: int
    # Whether the store was given them, just now; not where they were there already.
    put: bool

    @property
    def columns(self) -> dict[str, Any]:
        """What the image's row says beside its id and tenant."""
        facts = self.facts
        return {
            "sha256": facts.sha256,
            "s3_key": self.s3_key,
            "media_type": facts.media_type,
            "width": facts.width,
            "height": facts.height,
            "frames": facts.frames,
            "bytes": self.size,
        }


def keep(storage: Storage, tenant_id: UUID, data: bytes, facts: ImageFacts) -> Original:
    """Store the bytes, unless this tenant's are there already. Raises StorageUnavailable."""
    with autonomous() as connection:
        found = connection.execute(_KNOWN, {"tenant": tenant_id, "sha256": facts.sha256}).one_or_none()
    if found is not None:
        return Original(found.id, tenant_id, found.s3_key, facts, len(data), put=False)
    image_id = new_id()
    key = original_key(tenant_id, image_id)
    storage.put(key, data, facts.media_type)
    return Original(image_id, tenant_id, key, facts, len(data), put=True)


def attach(session: Session, original: Original) -> Image:
    """The image's row, made now or found; locked against erasure until the commit.

    Raises Conflict where the image was erased at the same moment. Compare `s3_key` with the original's: where they
    differ, somebody sent the same bytes at the same time, and the original's object can be discarded.
    """
    row = {"id": original.image_id, "tenant_id": original.tenant_id, **original.columns}
    if session.connection().execute(_INSERT, row).scalar():  # nobody else sees it before the commit
        image = Image(**row, erased_at=None)
        written(session, image)
        return image
    found = session.scalar(_LOCKED, {"tenant": original.tenant_id, "sha256": original.facts.sha256})
    if found is None:
        raise Conflict("This image was erased while it was being sent again; send it once more.")
    return found


def new(original: Original) -> tuple[Image, Rows]:
    """The row of an image that was not there before, to be written in one statement with its case.

    That statement raises IntegrityError where somebody sent the same bytes at the same moment: then `attach` finds it.
    """
    image = Image(id=original.image_id, tenant_id=original.tenant_id, erased_at=None, **original.columns)
    return image, Rows(_NEW, {"image": image.id, "tenant": image.tenant_id, **original.columns})


def discard_duplicate(storage: Storage, original: Original, image: Image) -> None:
    """Remove the copy that lost the race to be the tenant's one original.

    The case is accepted by now: a store that does not answer leaves an object nobody speaks of, and a warning.
    """
    if image.s3_key == original.s3_key:
        return
    try:
        storage.delete(original.s3_key)
    except StorageUnavailable as error:
        log.warning("%s stays behind in the store: %s", original.s3_key, error)


def image_of(session: Session, tenant_id: UUID, image_id: UUID) -> Image:
    """One of the tenant's images that has its bytes. Raises NotFound."""
    image = session.scalar(select(Image).where(Image.id == image_id, Image.tenant_id == tenant_id))
    if image is None:
        raise NotFound(f"There is no image {image_id}.")
    if image.erased_at is not None:
        raise NotFound(f"Image {image_id} was erased.")
    return image


def drop(session: Session, image: Image) -> None:
    """Mark an image as erased, and forget what it is like and what its file says; its bytes go with `purge`.

    The row, which the caller has locked, stays as a tombstone: what it was by sha256, size and type.
    """
    image.erased_at = datetime.now(UTC)
    image.provenance = None
    _forget_likeness(session, image.id)


def _forget_likeness(session: Session, image_id: UUID) -> None:
    session.execute(delete(ImageHash).where(ImageHash.image_id == image_id))
    either = or_(SimilarImage.image_id == image_id, SimilarImage.other_id == image_id)
    session.execute(delete(SimilarImage).where(either))


def doomed(limit: int = PURGED_AT_ONCE) -> Sequence[Image]:
    """Erased images of which the store may still have something, oldest erasure first."""
    query = select(Image).where(Image.erased_at.is_not(None), Image.purged_at.is_(None))
    with transaction() as session:
        return session.scalars(query.order_by(Image.erased_at).limit(limit)).all()


def purge(storage: Storage, images: Sequence[Image]) -> int:
    """Delete all that the store has of erased images, write down that it is gone, and return of how many.

    Safe to repeat.
    """
    delete_bytes(storage, images)
    with transaction() as session:
        gone = update(Image).where(Image.id.in_([image.id for image in images]))
        session.execute(gone.values(purged_at=func.now(), rendition_key=None))
    return len(images)


def delete_bytes(storage: Storage, images: Sequence[Image]) -> None:
    """Delete the originals, every picture made of them, and the uploads that they came as. Safe to repeat."""
    with transaction() as session:
        uploads = session.scalars(select(Upload.s3_key).where(Upload.image_id.in_([image.id for image in images])))
        keys = [*uploads]
    for image in images:
        # The rendition also where no row speaks of it yet: a worker may just have stored it.
        keys += [image.s3_key, rendition_key(image.tenant_id, image.id)]
        keys += [view_key(image.tenant_id, image.id, view) for view in View]
    storage.delete_all(keys)
