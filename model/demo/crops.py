"""From photos to the real images of the demo data: crops with something to see in them, some with a printed caption.

Both classes start from these crops and go through the same JPEG compression afterwards, so that neither the choice of
crop nor the compression tells them apart. Knows nothing of how fakes are made.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.demo.photos import texture

SIDE = 96  # pixels: what the demo model sees
LARGE_SIDE = 2 * SIDE
LARGE_SHARE = 0.2
MIN_TEXTURE = 4.0  # see photos.texture; below it there is nothing an artifact could show in
CAPTION_SHARE = 0.25
JPEG_QUALITY = (72, 96)

TEXT = (
    "harbour street open daily bread and coffee north gate ticket office no entry platform seven museum of light "
    "please wait here garden centre fresh fish market library hours quiet area west bridge number nine the old town "
    "summer concert meeting point bicycle repair hotel station river path mind your step exit to the left"
)
WORDS = TEXT.split()


@dataclass(frozen=True)
class Caption:
    """A printed text: its lines, and how it is laid over a crop (shares of the crop's side, grey values 0–255)."""

    lines: tuple[str, ...]
    size: float
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]
    opacity: float
    left: float
    top: float


def crop(photo: Image.Image, rng: Generator, side: int) -> Image.Image:
    """A square of `side` pixels from anywhere in the photo, at a random scale, with enough texture if there is any.

    After 24 tries without, the most textured one.
    """
    best, best_texture = None, -1.0
    for _ in range(24):
        candidate = _any_crop(photo, rng, side)
        found = texture(np.asarray(candidate))
        if found > best_texture:
            best, best_texture = candidate, found
        if found >= MIN_TEXTURE:
            break
    assert best is not None
    return best.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else best


def any_side(rng: Generator) -> int:
    return LARGE_SIDE if rng.random() < LARGE_SHARE else SIDE


def compress(image: Image.Image, rng: Generator) -> bytes:
    """The image as JPEG, at a random quality and chroma subsampling: the history both classes share."""
    buffer = io.BytesIO()
    quality, subsampling = int(rng.integers(*JPEG_QUALITY)), int(rng.choice([0, 2]))
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def any_caption(rng: Generator) -> Caption:
    size = float(rng.uniform(0.14, 0.24))
    room = int(0.9 / (0.55 * size))
    dark, light = rng.integers(0, 90, 3), rng.integers(170, 256, 3)
    ink, paper = (dark, light) if rng.random() < 0.7 else (light, dark)
    return Caption(
        lines=tuple(_any_line(rng, room) for _ in range(int(rng.integers(2, 5)))),
        size=size,
        ink=_colour(ink),
        paper=_colour(paper),
        opacity=float(rng.uniform(0.6, 1.0)),
        left=float(rng.uniform(0.02, 0.12)),
        top=float(rng.uniform(0.02, 0.2)),
    )


def print_caption(image: Image.Image, caption: Caption, text: Image.Image) -> Image.Image:
    """Lay a panel of paper over the image and `text`, a mask from `text_mask`, over the panel."""
    side = image.width
    panel = Image.new("L", image.size, 0)
    height = (1.25 * caption.size * len(caption.lines) + 0.06) * side
    top = caption.top * side
    ImageDraw.Draw(panel).rectangle((0, top - 0.03 * side, side, top + height), fill=int(255 * caption.opacity))
    papered = Image.composite(Image.new("RGB", image.size, caption.paper), image, panel)
    return Image.composite(Image.new("RGB", image.size, caption.ink), papered, text)


def text_mask(side: int, caption: Caption) -> Image.Image:
    """The caption's letters as a mask (0–255) of `side` pixels, set in Pillow's own typeface."""
    mask = Image.new("L", (side, side), 0)
    draw, font = ImageDraw.Draw(mask), ImageFont.load_default(caption.size * side)
    for place, line in enumerate(caption.lines):
        at = (caption.left * side, (caption.top + 1.25 * caption.size * place) * side)
        draw.text(at, line, fill=255, font=font)
    return mask


def _any_crop(photo: Image.Image, rng: Generator, side: int) -> Image.Image:
    largest = min(photo.size)
    shrink = np.exp(rng.uniform(0, np.log(max(1.0, largest / side))))
    region = min(largest, int(side * shrink))
    left, top = int(rng.integers(0, photo.width - region + 1)), int(rng.integers(0, photo.height - region + 1))
    box = (left, top, left + region, top + region)
    return photo.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _any_line(rng: Generator, room: int) -> str:
    line = str(rng.choice(WORDS))
    while len(line) < room:
        line = f"{line} {rng.choice(WORDS)}"
    return line.upper() if rng.random() < 0.3 else line


def _colour(values: NDArray[np.int64]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    return red, green, blue
