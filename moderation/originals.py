"""The bytes as they were sent: kept once per tenant and sha256, erased on request.

Bytes go to the object store before any row speaks of them, under a key that never changes; a row that commits therefore
always has its bytes. It does not know what an image shows or whose case it is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import Select, delete, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation import webhooks
from moderation.db import new_id, transaction
from moderation.errors import Conflict, NotFound, StorageUnavailable
from moderation.images import ImageFacts
from moderation.storage import Storage, original_key, rendition_key, view_key
from moderation.tables import Case, Image, ImageHash, SimilarImage, Submission
from moderation.vocabulary import EventType, View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Original:
    """Bytes that are in the store, and not yet in any row (unless the tenant had sent them before)."""

    image_id: UUID
    tenant_id: UUID
    s3_key: str
    facts: ImageFacts
    size: int


def keep(storage: Storage, tenant_id: UUID, data: bytes, facts: ImageFacts) -> Original:
    """Store the bytes, unless this tenant's are there already. Raises StorageUnavailable."""
    with transaction() as session:
        known = session.scalar(_live(tenant_id, facts.sha256))
    if known is not None:
        return Original(known.id, tenant_id, known.s3_key, facts, len(data))
    image_id = new_id()
    key = original_key(tenant_id, image_id)
    storage.put(key, data, facts.media_type)
    return Original(image_id, tenant_id, key, facts, len(data))


def attach(session: Session, original: Original) -> Image:
    """The image's row, made now or found; locked against erasure until the commit.

    Raises Conflict where the image was erased at the same moment. Compare `s3_key` with the original's: where they
    differ, somebody sent the same bytes at the same time, and the original's object can be discarded.
    """
    facts = original.facts
    session.execute(
        insert(Image)
        .values(
            id=original.image_id,
            tenant_id=original.tenant_id,
            sha256=facts.sha256,
            s3_key=original.s3_key,
            media_type=facts.media_type,
            width=facts.width,
            height=facts.height,
            frames=facts.frames,
            bytes=original.size,
        )
        .on_conflict_do_nothing()
    )
    image = session.scalar(_live(original.tenant_id, facts.sha256).with_for_update(read=True))
    if image is None:
        raise Conflict("This image was erased while it was being sent again; send it once more.")
    return image


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


def _live(tenant_id: UUID, sha256: str) -> Select[Image]:
    return select(Image).where(Image.tenant_id == tenant_id, Image.sha256 == sha256, Image.erased_at.is_(None))


def image_of(session: Session, tenant_id: UUID, image_id: UUID) -> Image:
    """One of the tenant's images that has its bytes. Raises NotFound."""
    image = session.scalar(select(Image).where(Image.id == image_id, Image.tenant_id == tenant_id))
    if image is None:
        raise NotFound(f"There is no image {image_id}.")
    if image.erased_at is not None:
        raise NotFound(f"Image {image_id} was erased.")
    return image


def erase(session: Session, tenant_id: UUID, image_id: UUID, *, actor: str, request_id: str | None) -> Image:
    """Mark an image erased; its bytes go at once or with the next housekeeping (`purge`). Erasing twice is harmless.

    The row stays as a tombstone: sha256, size and verdicts, but neither bytes nor the link they came from, nor what the
    file said of itself, nor what it is like.
    Raises NotFound.
    """
    image = session.scalar(select(Image).where(Image.id == image_id, Image.tenant_id == tenant_id).with_for_update())
    if image is None:
        raise NotFound(f"There is no image {image_id}.")
    if image.erased_at is not None:
        return image
    image.erased_at = datetime.now(UTC)
    image.provenance = None
    _forget_links(session, image_id)
    _forget_likeness(session, image_id)
    webhooks.record(
        session,
        EventType.IMAGE_ERASED,
        tenant_id=tenant_id,
        actor=actor,
        before={"sha256": image.sha256},
        after={"erased": True},
        request_id=request_id,
    )
    return image


def _forget_links(session: Session, image_id: UUID) -> None:
    for submission in session.scalars(select(Submission).join(Case).where(Case.image_id == image_id)):
        submission.image_url = submission.s3_bucket = submission.s3_object = None


def _forget_likeness(session: Session, image_id: UUID) -> None:
    session.execute(delete(ImageHash).where(ImageHash.image_id == image_id))
    either = or_(SimilarImage.image_id == image_id, SimilarImage.other_id == image_id)
    session.execute(delete(SimilarImage).where(either))


def purge(storage: Storage, limit: int = 100) -> int:
    """Delete the bytes of erased images and all that was made of them; returns of how many. Safe to run again."""
    with transaction() as session:
        doomed = session.scalars(
            select(Image).where(Image.erased_at.is_not(None), Image.purged_at.is_(None)).limit(limit)
        ).all()
    for image in doomed:
        purge_one(storage, image)
    return len(doomed)


def purge_one(storage: Storage, image: Image) -> None:
    """Delete the bytes of one erased image and all pictures made of it, in a transaction of its own. Safe to repeat."""
    storage.delete(image.s3_key)
    # Also where no row speaks of it yet: a worker may just have stored it.
    storage.delete(rendition_key(image.tenant_id, image.id))
    for view in View:
        storage.delete(view_key(image.tenant_id, image.id, view))
    with transaction() as session:
        row = session.get_one(Image, image.id)
        row.purged_at = datetime.now(UTC)
        row.rendition_key = None
