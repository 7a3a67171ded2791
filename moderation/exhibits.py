"""What the case page shows of an image beside what a model says: its rendition, its provenance, what it is like.

Made once, when the image is screened, by the worker that has it decoded; `telltale renditions` makes what older images
lack. It does not know who may see it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from PIL import Image as Pixels
from sqlalchemy import bindparam, exists, or_, select, text
from sqlalchemy.orm import Session

from moderation import likeness, provenance, renditions, views
from moderation.db import autonomous, transaction
from moderation.fingerprints import fingerprint
from moderation.provenance import Claims
from moderation.sandbox import Sandbox, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.storage import Storage, rendition_key
from moderation.tables import Case, Image, ImageHash
from moderation.traits import Traits
from moderation.vocabulary import CaseStatus

log = logging.getLogger(__name__)

JUDGED = (CaseStatus.IN_REVIEW, CaseStatus.DECIDED)
_HASHED = exists().where(ImageHash.image_id == Image.id)


# The same as below, of an image `i`.
COMPLETE = """
    (i.rendition_key IS NOT NULL AND i.provenance IS NOT NULL
     AND EXISTS (SELECT FROM image_hashes h WHERE h.image_id = i.id))
"""


def are_complete(session: Session, image: Image) -> bool:
    """Whether nothing is left to be made of this image."""
    made = image.rendition_key is not None and image.provenance is not None
    return made and session.get(ImageHash, image.id) is not None


def lacking(session: Session, *, after: UUID | None = None, limit: int = 100) -> Sequence[Image]:
    """The images of judged cases of which something is still to be made, from just after an id on."""
    query = select(Image).where(Image.erased_at.is_(None))
    query = query.where(or_(Image.rendition_key.is_(None), Image.provenance.is_(None), ~_HASHED))
    query = query.where(exists().where(Case.image_id == Image.id, Case.status.in_(JUDGED)))
    if after is not None:
        query = query.where(Image.id > after)
    return session.scalars(query.order_by(Image.id).limit(limit)).all()


def made_apart(sandbox: Sandbox, image_id: UUID, data: bytes, media_type: str, pixels: Pixels.Image) -> Traits:
    """As `traits.of` does, for somebody who has the pixels: only the bytes go into the sandbox.

    A file whose provenance cannot be read is kept as such.
    Raises SandboxClosed.
    """
    claims = _claims(sandbox, image_id, data, media_type)
    return Traits(views.encoded(pixels), claims, fingerprint(pixels))


def _claims(sandbox: Sandbox, image_id: UUID, data: bytes, media_type: str) -> Claims:
    try:
        return sandbox.call(provenance.read, data, media_type)
    except (SandboxCrash, SandboxMemory, SandboxTimeout) as error:
        log.warning("the provenance of image %s cannot be read: %s", image_id, error)
        return provenance.unread()


_KEEP = text(
    """
    WITH kept AS (
        UPDATE images SET rendition_key = :key, provenance = :claims WHERE id = :image AND erased_at IS NULL
        RETURNING id, tenant_id
    ), hashed AS (
        INSERT INTO image_hashes (image_id, tenant_id, pdq, quality, bands)
        SELECT id, tenant_id, :pdq, :quality, :bands FROM kept
        ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM kept
    """
).bindparams(bindparam("claims", type_=Image.provenance.type))


def keep(storage: Storage, tenant_id: UUID, image_id: UUID, made: Traits) -> None:
    """Store what was made, and which others are like it. Doing it twice is harmless.

    Of an image that is erased meanwhile nothing is kept. Raises StorageUnavailable.
    """
    key, found = rendition_key(tenant_id, image_id), made.fingerprint
    storage.put(key, made.rendition, views.MEDIA_TYPE)
    row = {"image": image_id, "pdq": found.pdq, "quality": found.quality, "bands": found.bands}
    with autonomous() as connection:
        is_there = connection.scalar(_KEEP, {**row, "key": key, "claims": made.claims})
    if not is_there:
        renditions.take_back(storage, image_id, key)
    elif found.bands:
        # After that commit: of two images that come at the same moment, one sees the other.
        with transaction() as session:
            likeness.match(session, tenant_id, image_id, found)
