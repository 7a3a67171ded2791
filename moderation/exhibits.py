"""What the case page shows of an image beside what a model says: its rendition, its provenance, what it is like.

Made once, when the image is screened, by the worker that has it decoded; `telltale renditions` makes what older images
lack. It does not know who may see it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from PIL import Image as Pixels
from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from moderation import likeness, provenance, renditions
from moderation.db import transaction
from moderation.likeness import Fingerprint
from moderation.provenance import Claims
from moderation.sandbox import Sandbox, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.storage import Storage
from moderation.tables import Case, Image, ImageHash
from moderation.vocabulary import CaseStatus

log = logging.getLogger(__name__)

JUDGED = (CaseStatus.IN_REVIEW, CaseStatus.DECIDED)
_HASHED = exists().where(ImageHash.image_id == Image.id)


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


def make(storage: Storage, sandbox: Sandbox, image_id: UUID, data: bytes, pixels: Pixels.Image) -> None:
    """Make what is not there yet, of an image's bytes and of its upright RGB pixels. Doing it twice is harmless.

    A file whose provenance cannot be read is kept as such. Raises StorageUnavailable, SandboxClosed.
    """
    with transaction() as session:
        image = session.get_one(Image, image_id)
        if are_complete(session, image):
            return
    if image.rendition_key is None:
        renditions.keep(storage, image_id, pixels)
    claims = image.provenance if image.provenance is not None else _claims(sandbox, image, data)
    found = likeness.fingerprint(pixels)
    if _kept(image_id, claims, found):
        with transaction() as session:
            likeness.match(session, image, found)


def _claims(sandbox: Sandbox, image: Image, data: bytes) -> Claims:
    try:
        return sandbox.call(provenance.read, data, image.media_type)
    except (SandboxCrash, SandboxMemory, SandboxTimeout) as error:
        log.warning("the provenance of image %s cannot be read: %s", image.id, error)
        return provenance.unread()


def _kept(image_id: UUID, claims: Claims, found: Fingerprint) -> bool:
    """Write both, unless the image was erased meanwhile."""
    with transaction() as session:
        image = session.scalars(select(Image).where(Image.id == image_id).with_for_update()).one()
        if image.erased_at is not None:
            return False
        image.provenance = claims
        likeness.keep(session, image, found)
        return True
