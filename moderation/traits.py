"""What is made of an image for people to look at, from its bytes and pixels alone: rendition, provenance, fingerprint.

It imports little, for a decoder's small process, and keeps nothing (moderation/exhibits.py does).
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from moderation import provenance, views
from moderation.fingerprints import Fingerprint, fingerprint
from moderation.provenance import Claims


@dataclass(frozen=True)
class Traits:
    """All that is made of one image; `rendition` is a JPEG."""

    rendition: bytes
    claims: Claims
    fingerprint: Fingerprint


def of(data: bytes, media_type: str, pixels: Image.Image) -> Traits:
    """Of an image's bytes, and of its upright RGB pixels, which stay as they are. Raises only MemoryError.

    Strangers wrote the bytes, so it runs in a sandbox, whose process a reader of provenance may take along.
    """
    return Traits(views.encoded(pixels), provenance.read(data, media_type), fingerprint(pixels))
