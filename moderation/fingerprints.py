"""What an image looks like, in 256 bits that scaling, recompression and small changes leave almost alone.

PDQ: Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019. A hash of a quality
below ENOUGH (too few features) is not compared: the number is the paper's. It imports little, for a decoder's small
process, and does not know what is done with a hash.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pdqhash
from PIL import Image

from moderation import views

ENOUGH = 50  # of 100
BANDS, BAND_BITS = 16, 16
# What PDQ makes smaller anyway; its filter takes a second for a large photograph, and keeps no more.
HASHED_SIDE = 512  # pixels


@dataclass(frozen=True)
class Fingerprint:
    """An image's PDQ hash, 32 bytes, and its quality, 0 to 100."""

    pdq: bytes
    quality: int

    @property
    def bands(self) -> list[int]:
        """The sixteen words, each with its place, as image_hashes.bands has them; none where it is not compared."""
        if self.quality < ENOUGH:
            return []
        words = np.frombuffer(self.pdq, dtype=">u2").astype(int)
        return [place << BAND_BITS | int(word) for place, word in enumerate(words)]


def fingerprint(pixels: Image.Image) -> Fingerprint:
    """The hash of upright RGB pixels, which stay as they are."""
    # Of their luminance, as the paper's is; made first, so that a third of the work is left.
    grey = np.asarray(views.shrunk(pixels.convert("L"), HASHED_SIDE))
    bits, quality = pdqhash.compute(np.broadcast_to(grey[..., None], (*grey.shape, 3)))
    return Fingerprint(np.packbits(bits.astype(np.uint8)).tobytes(), int(quality))
