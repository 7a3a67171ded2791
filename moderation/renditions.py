"""Where the pictures for browsers are kept: the rendition of every image that was judged, and views made when asked.

The screening worker makes the rendition of the very pixels that were judged (moderation/exhibits.py); all of an
original's pixels, and the forensic views, are wanted of few images, so they are made when somebody first looks. All go
with the image. It does not know who may look.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select, update

from moderation import views
from moderation.db import transaction
from moderation.errors import ImageTooLarge, NotFound, Undecodable
from moderation.sandbox import Sandbox, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.storage import Storage, view_key
from moderation.tables import Image
from moderation.views import MEDIA_TYPE
from moderation.vocabulary import View

MAX_BYTES = 128 * 1024 * 1024


def take_back(storage: Storage, image_id: UUID, key: str) -> None:
    """Delete what was stored for an image that had been erased meanwhile. Raises StorageUnavailable."""
    with transaction() as session:
        # Should deleting fail now, the next housekeeping does it.
        session.execute(update(Image).where(Image.id == image_id).values(purged_at=None))
    storage.delete(key)


def read(storage: Storage, image: Image) -> bytes:
    """The rendition's bytes. Raises NotFound where the image was erased or none has been made, StorageUnavailable."""
    if image.erased_at is not None or image.rendition_key is None:
        raise NotFound(f"There is no rendition of image {image.id}.")
    return storage.get(image.rendition_key, max_bytes=MAX_BYTES)


def read_view(storage: Storage, sandbox: Sandbox, image: Image, view: View, *, max_pixels: int) -> bytes:
    """One view's bytes, which are made and kept when they are first asked for.

    Raises NotFound where the image was erased, BadImage where this view cannot be made of it, StorageUnavailable.
    """
    if image.erased_at is not None:
        raise NotFound(f"Image {image.id} was erased.")
    key = view_key(image.tenant_id, image.id, view)
    try:
        return storage.get(key, max_bytes=MAX_BYTES)
    except NotFound:
        pass  # it is asked for the first time
    made = _made(sandbox, storage.get(image.s3_key, max_bytes=image.bytes), view, max_pixels)
    storage.put(key, made, MEDIA_TYPE)
    if not _is_there(image.id):
        take_back(storage, image.id, key)
        raise NotFound(f"Image {image.id} was erased.")
    return made


def _is_there(image_id: UUID) -> bool:
    """Whether it is not erased. Whoever erases it from now on also deletes what is stored by now."""
    with transaction() as session:
        image = session.scalars(select(Image).where(Image.id == image_id).with_for_update()).one()
        return image.erased_at is None


def _made(sandbox: Sandbox, data: bytes, view: View, max_pixels: int) -> bytes:
    try:
        return sandbox.call(views.made, data, view, max_pixels)
    except (SandboxMemory, SandboxTimeout) as error:
        raise ImageTooLarge(f"The image is too large for this view. {error.message}") from error
    except SandboxCrash as error:
        raise Undecodable("This view cannot be made: decoding the image ended its process.") from error
