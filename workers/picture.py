"""A file as screening takes it: the pixels for the detector and what people are shown, made in one go.

It runs in the sandbox, whose processes import this module and no torch. It knows nothing of cases.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from model.decode import to_rgb
from moderation import traits
from moderation.traits import Traits


@dataclass(frozen=True)
class Picture:
    """Upright RGB pixels, and what is made of them and of the file."""

    pixels: Image.Image
    traits: Traits


def read(data: bytes, media_type: str, max_pixels: int) -> Picture:
    """Decode once for both. Raises UndecodableImage."""
    pixels = to_rgb(data, max_pixels=max_pixels)
    return Picture(pixels, traits.of(data, media_type, pixels))
