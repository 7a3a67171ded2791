"""What the case page shows of an image, made for tests as screening makes it."""

from __future__ import annotations

from uuid import UUID

from PIL import Image as Pixels

from moderation import exhibits, provenance, views
from moderation.db import transaction
from moderation.fingerprints import fingerprint
from moderation.storage import Storage
from moderation.tables import Image
from moderation.traits import Traits


def exhibit(store: Storage, image_id: UUID, pixels: Pixels.Image, data: bytes | None = None) -> None:
    """Of these pixels, and of a file that is `data`, or says nothing of them."""
    with transaction() as session:
        image = session.get_one(Image, image_id)
    claims = provenance.read(data, image.media_type) if data is not None else {}
    exhibits.keep(store, image.tenant_id, image_id, Traits(views.encoded(pixels), claims, fingerprint(pixels)))
