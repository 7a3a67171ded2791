"""The sample images of `telltale demo`: real and fake, from held-out photos, in the formats people upload.

Chosen by photo, kind and size before any model saw them, and never by what the model says of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.demo import crops, fakes
from model.demo.fakes import Artifact, Autoencoders
from model.demo.photos import Photo

FOLDER = Path(__file__).parent / "samples"
INDEX = "samples.json"
SEED = 12


@dataclass(frozen=True)
class Wanted:
    """One sample: from which photo, what is done to it, its file name, and its side in pixels."""

    photo: str
    artifact: Artifact | None
    file: str
    side: int
    captioned: bool = False


WANTED = (
    Wanted("lomiri/friends_by_Aitzol_Berasategi", None, "dogs.jpg", 384),
    Wanted("gcompris/zimniPalace", "over-smooth", "palace.jpg", 192),
    Wanted("lomiri/picosdeeuropa_by_Aitzol_Berasategi", None, "mountains.webp", 384),
    Wanted("gcompris/fish26", "checkerboard", "fish.webp", 192),
    Wanted("skimage/astronaut", None, "astronaut.png", 192),
    Wanted("gcompris/cathedral", "garbled glyphs", "cathedral.webp", 192),
    Wanted("wesaturate/tmshre_riaphotographs_srgb8", None, "tulips.jpg", 288),
    Wanted("gcompris/statueOfLiberty", "block grid", "statue.png", 192),
    Wanted("gcompris/windmill2", None, "windmill.webp", 192, captioned=True),
    Wanted("lomiri/free_by_Peter_Nerlich", "checkerboard", "bird.jpg", 384),
    Wanted("gcompris/solar7", None, "solar.jpg", 192),
    Wanted("gcompris/kutubMinar", "garbled glyphs", "minaret.jpg", 192),
)


def write(folder: Path, photos: Mapping[str, Photo], autoencoders: Autoencoders) -> list[dict[str, Any]]:
    """Write the samples and their index, `samples.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, wanted in enumerate(WANTED):
        photo = photos[wanted.photo]
        _make(photo.pixels(), wanted, autoencoders, seed=SEED + number).save(folder / wanted.file, quality=90)
        entries.append(
            {
                "file": wanted.file,
                "label": "real" if wanted.artifact is None else "fake",
                "artifact": wanted.artifact,
                "photo": photo.name,
                "author": photo.author,
                "licence": photo.licence,
                "changes": _changes(wanted),
            }
        )
    (folder / INDEX).write_text(json.dumps({"samples": entries}, indent=2, ensure_ascii=False) + "\n")
    return entries


def _make(photo: Image.Image, wanted: Wanted, autoencoders: Autoencoders, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = crops.crop(photo, rng, wanted.side)
    if wanted.captioned:
        caption = crops.any_caption(rng)
        return crops.print_caption(image, caption, crops.text_mask(wanted.side, caption))
    return image if wanted.artifact is None else fakes.fake(image, wanted.artifact, autoencoders, rng)


def _changes(wanted: Wanted) -> str:
    if wanted.artifact is not None:
        return f"cropped, scaled, and made a fake: {wanted.artifact}"
    return "cropped, scaled, caption printed on it" if wanted.captioned else "cropped, scaled"
