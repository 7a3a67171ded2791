"""What browsers are shown of an image: upright, 8-bit, of a size that displays; originals are for API clients only.

The screening worker makes it of the very pixels that were judged. It does not know who may look.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from uuid import UUID

from PIL import Image as Pixels
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from moderation.db import transaction
from moderation.errors import NotFound
from moderation.storage import Storage, rendition_key
from moderation.tables import Case, Image
from moderation.vocabulary import CaseStatus

MEDIA_TYPE = "image/jpeg"
LONGEST_SIDE = 2048  # pixels
# High, and with colour in full: what a moderator looks for is as small as what JPEG leaves out.
QUALITY = 92
MAX_BYTES = 32 * 1024 * 1024


def keep(storage: Storage, image_id: UUID, pixels: Pixels.Image) -> None:
    """Make and store the rendition of an image, given its upright RGB pixels, which stay as they are.

    An image that is erased meanwhile has none. Doing it twice is harmless. Raises StorageUnavailable.
    """
    with transaction() as session:
        image = session.get_one(Image, image_id)
    key = rendition_key(image.tenant_id, image_id)
    storage.put(key, encoded(pixels), MEDIA_TYPE)
    if not _attached(image_id, key):
        storage.delete(key)


def lacking(session: Session, *, after: UUID | None = None, limit: int = 100) -> Sequence[Image]:
    """The images of cases in review that were judged before renditions were made, from just after an id on."""
    query = select(Image).where(Image.rendition_key.is_(None), Image.erased_at.is_(None))
    query = query.where(exists().where(Case.image_id == Image.id, Case.status == CaseStatus.IN_REVIEW))
    if after is not None:
        query = query.where(Image.id > after)
    return session.scalars(query.order_by(Image.id).limit(limit)).all()


def _attached(image_id: UUID, key: str) -> bool:
    """Whether the row speaks of the rendition from now on; not where its bytes are to go."""
    with transaction() as session:
        image = session.scalars(select(Image).where(Image.id == image_id).with_for_update()).one()
        if image.erased_at is not None:
            image.purged_at = None  # should deleting fail now, the next housekeeping does it
            return False
        image.rendition_key = key
        return True


def encoded(pixels: Pixels.Image) -> bytes:
    """As JPEG, at most LONGEST_SIDE pixels wide and high, without any metadata."""
    data = BytesIO()
    _shrunk(pixels).save(data, "JPEG", quality=QUALITY, subsampling=0)
    return data.getvalue()


def _shrunk(pixels: Pixels.Image) -> Pixels.Image:
    longest = max(pixels.size)
    if longest <= LONGEST_SIDE:
        return pixels
    width, height = (max(1, round(side * LONGEST_SIDE / longest)) for side in pixels.size)
    # When making smaller it is as sharp as bicubic and takes half of Lanczos's time; a worker does this for each image.
    return pixels.resize((width, height), Pixels.Resampling.HAMMING, reducing_gap=2)


def read(storage: Storage, image: Image) -> bytes:
    """The rendition's bytes. Raises NotFound where the image was erased or none has been made, StorageUnavailable."""
    if image.erased_at is not None or image.rendition_key is None:
        raise NotFound(f"There is no rendition of image {image.id}.")
    return storage.get(image.rendition_key, max_bytes=MAX_BYTES)
