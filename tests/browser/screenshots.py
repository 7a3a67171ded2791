"""Screenshots of the pages, for the README: small PNGs in docs/screenshots/, rewritten only where the picture changed.

Two runs never draw exactly the same pixels (times, ids, antialiasing), so a picture is kept unless it differs visibly.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageChops
from playwright.sync_api import Page

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
# Of all pixels: more than a changed time or address, less than a changed part of the page.
CHANGED_FROM = 0.01
# By how much a channel must differ to be seen.
VISIBLE = 24
# Of the 256 colours of a small PNG, so many are the page's own, exact; the others are for photographs.
OWN_COLOURS = 96


def keep(page: Page, name: str) -> None:
    """Take a screenshot of what is visible, and write it where it is new or has changed."""
    taken = Image.open(io.BytesIO(page.screenshot(animations="disabled", caret="hide"))).convert("RGB")
    small = taken.quantize(palette=_palette(taken), dither=Image.Dither.NONE)
    file = FOLDER / f"{name}.png"
    if not file.exists() or _differ(Image.open(file).convert("RGB"), small.convert("RGB")):
        FOLDER.mkdir(parents=True, exist_ok=True)
        small.save(file, optimize=True)


def _palette(image: Image.Image) -> Image.Image:
    counted = image.getcolors(image.width * image.height)
    common = [colour for _, colour in sorted(counted, reverse=True)[:OWN_COLOURS]]
    others = image.quantize(256 - OWN_COLOURS, Image.Quantize.MEDIANCUT).getpalette() or []
    made = Image.new("P", (1, 1))
    made.putpalette([channel for colour in common for channel in colour] + others[: 3 * (256 - len(common))])
    return made


def _differ(before: Image.Image, now: Image.Image) -> bool:
    if before.size != now.size:
        return True
    histogram = ImageChops.difference(before, now).convert("L").point(lambda value: 255 * (value > VISIBLE)).histogram()
    return histogram[255] / (now.width * now.height) > CHANGED_FROM
