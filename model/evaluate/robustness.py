"""What happens to images on their way through platforms: the same picture, recompressed, blurred, turned, noisy.

Each is a function from an RGB image to an RGB image of the same size (the screenshot: nearly). The published table
names five of them by kind (JPEG 80 and 70, blur, rotate 15, noise) without their parameters, so ours stand here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

BLUR_SIGMA = 1.0  # pixels of the original
ROTATION = 15  # degrees, counter-clockwise
NOISE_SIGMA = 10.0  # of 255 levels, each channel by itself
# A screenshot: shown smaller, cut out a little too tight, saved again.
SCREENSHOT_SCALE = 0.75
SCREENSHOT_TRIM = 0.01  # of each side, at least a pixel
SCREENSHOT_QUALITY = 75


@dataclass(frozen=True)
class Alteration:
    """One thing done to every image. `what` says exactly what, for tables and pages."""

    name: str
    what: str
    apply: Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Through JPEG and back; chroma at half resolution, as Pillow does by default."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def blur(image: Image.Image) -> Image.Image:
    """Gaussian, by the same number of pixels whatever the image's size."""
    return image.filter(ImageFilter.GaussianBlur(BLUR_SIGMA))


def halve(image: Image.Image) -> Image.Image:
    """To half the width and height, and back."""
    small = (max(1, image.width // 2), max(1, image.height // 2))
    return image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def rotate(image: Image.Image) -> Image.Image:
    """About the centre, with black corners."""
    return image.rotate(ROTATION, Image.Resampling.BICUBIC)


def noise(image: Image.Image) -> Image.Image:
    """The same noise every time for the same pixels: its seed is their hash."""
    pixels = np.asarray(image, dtype=np.float64)
    seed = int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8])
    added = pixels + np.random.default_rng(seed).normal(0, NOISE_SIGMA, pixels.shape)
    return Image.fromarray(added.round().clip(0, 255).astype(np.uint8))


def screenshot(image: Image.Image) -> Image.Image:
    """Shown smaller, cut out a little too tight, and saved again."""
    size = (max(1, round(image.width * SCREENSHOT_SCALE)), max(1, round(image.height * SCREENSHOT_SCALE)))
    shown = image.resize(size, Image.Resampling.BILINEAR)
    across, down = (min(max(1, round(side * SCREENSHOT_TRIM)), (side - 1) // 2) for side in size)
    return jpeg(shown.crop((across, down, size[0] - across, size[1] - down)), SCREENSHOT_QUALITY)


ALTERATIONS = (
    Alteration("jpeg80", "JPEG, quality 80", lambda image: jpeg(image, 80)),
    Alteration("jpeg70", "JPEG, quality 70", lambda image: jpeg(image, 70)),
    Alteration("jpeg50", "JPEG, quality 50", lambda image: jpeg(image, 50)),
    Alteration("blur", f"Gaussian blur, σ = {BLUR_SIGMA:g} pixel", blur),
    Alteration("half", "to half the sides and back, bicubic", halve),
    Alteration("rotate15", f"rotated {ROTATION}°, bicubic, black corners", rotate),
    Alteration("noise", f"Gaussian noise, σ = {NOISE_SIGMA:g} of 255", noise),
    Alteration(
        "screenshot",
        f"to {SCREENSHOT_SCALE:.0%} (bilinear), trimmed {SCREENSHOT_TRIM:.0%}, JPEG {SCREENSHOT_QUALITY}",
        screenshot,
    ),
)
