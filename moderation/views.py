"""The pictures that are made of an original for browsers: JPEG, upright, of a size that displays, without metadata.

What strangers sent is decoded here, so `made` runs in a sandbox. It does not know where pictures are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO

from PIL import Image

from moderation import forensics, images
from moderation.vocabulary import View

MEDIA_TYPE = "image/jpeg"
LONGEST_SIDE = 2048  # pixels, of what is loaded with a page
FULL_SIDE = 8192  # of what is loaded when somebody looks closer
# High, and with colour in full: what a moderator looks for is as small as what JPEG leaves out.
QUALITY = 92

_FORENSIC: Mapping[View, Callable[[Image.Image], Image.Image]] = {
    View.ERROR_LEVEL: forensics.error_level,
    View.NOISE: forensics.noise,
    View.SPECTRUM: forensics.spectrum,
}


def made(data: bytes, view: View, max_pixels: int) -> bytes:
    """One view of an original, computed from all of its pixels. Raises BadImage."""
    pixels = images.upright(data, max_pixels)
    if view is View.FULL:
        return encoded(pixels, FULL_SIDE)
    with images.our_limit_only():  # what a forensic view compresses and reads again is as large as the original
        return encoded(_FORENSIC[view](pixels))


def encoded(pixels: Image.Image, longest_side: int = LONGEST_SIDE) -> bytes:
    """As JPEG, at most so many pixels wide and high, without any metadata; the pixels given stay as they are."""
    data = BytesIO()
    shrunk(pixels, longest_side).save(data, "JPEG", quality=QUALITY, subsampling=0)
    return data.getvalue()


def shrunk(pixels: Image.Image, longest_side: int) -> Image.Image:
    """The same, where it is not larger, else in the same proportions."""
    longest = max(pixels.size)
    if longest <= longest_side:
        return pixels
    width, height = (max(1, round(side * longest_side / longest)) for side in pixels.size)
    # When making smaller it is as sharp as bicubic and takes half of Lanczos's time; a worker does this for each image.
    return pixels.resize((width, height), Image.Resampling.HAMMING, reducing_gap=2)
