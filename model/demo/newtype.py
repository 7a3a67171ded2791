"""A type of fake that the demo checkpoint has never seen, and everything needed to teach it: halftone, drawn as dots.

From images that ship with the package: the held-out crops, of which each photo serves one purpose only, and photos
bundled with scikit-image and scikit-learn that the checkpoint was trained on, for replay. Fakes of known types for
replay come from autoencoders trained on those. It knows nothing of training, gates or reviews.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from PIL import Image

from model.decode import to_rgb
from model.demo import crops, dataset, fakes, photos
from model.demo.crops import SIDE
from model.demo.dataset import FAKE, REAL, RECORDS
from model.demo.evaluate import HELDOUT
from model.demo.explanations import COLOURS, MUTED, STRONG
from model.demo.fakes import Autoencoders
from model.demo.photos import Split
from model.manifest import Prompt

HALFTONE = "halftone"
PERIOD = (3.5, 6.0)  # pixels of 96, from dot to dot
STRENGTH = (0.45, 0.75)  # how much of the picture the dots replace
HARDNESS = 4.0  # of a dot's edge

LETTERS = re.compile(r"letter|writing|\btext\b")  # in what is said of a crop
FINDING = "A regular pattern of dots covers the picture, as print leaves it."

# What the photos of the held-out crops are for; by the hash of their names, in these shares.
Purpose = Literal["reviewed", "calibration", "holdout"]
SHARES: dict[Purpose, float] = {"reviewed": 0.34, "calibration": 0.18, "holdout": 0.48}
AUTOENCODER_STEPS = 60
SEED = 5


@dataclass(frozen=True)
class Crop:
    """One shipped held-out image: its record and its file."""

    record: Mapping[str, Any]
    path: Path

    @property
    def is_real(self) -> bool:
        return bool(self.record["label"] == REAL)


def halftone(image: Image.Image, rng: Generator) -> Image.Image:
    """The picture as if printed in dots, and partly so: larger dots where it is darker, in rows at any angle."""
    pixels = np.asarray(image, dtype=np.float64) / 255
    period = rng.uniform(*PERIOD) * image.width / SIDE
    angle, phase = rng.uniform(0, np.pi / 2), rng.uniform(0, 2 * np.pi, 2)
    rows, columns = np.mgrid[: image.height, : image.width] * (2 * np.pi / period)
    across = columns * np.cos(angle) + rows * np.sin(angle) + phase[0]
    down = rows * np.cos(angle) - columns * np.sin(angle) + phase[1]
    screen = 0.5 + (np.cos(across) + np.cos(down)) / 4
    dots = np.clip((pixels - screen[..., None]) * HARDNESS + 0.5, 0, 1)
    mixed = pixels + rng.uniform(*STRENGTH) * (dots - pixels)
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def answer(image: Image.Image) -> str:
    """What is to be said of a halftone: the finding, and how colourful the image is, as of the known types."""
    pixels = np.asarray(image, np.float32)
    colour = int(np.digitize((pixels.max(-1) - pixels.min(-1)).mean(), (MUTED, STRONG)))
    return f"{Prompt().answer_start('fake')} {FINDING} {COLOURS[colour]}"


def heldout(purpose: Purpose) -> list[Crop]:
    """The shipped held-out crops of the photos that serve this purpose."""
    records = json.loads((HELDOUT / RECORDS).read_text())
    purposes = _purposes(sorted({record["photo"] for record in records}))
    return [Crop(record, HELDOUT / record["image"]) for record in records if purposes[record["photo"]] == purpose]


def draw(crops_: Sequence[Crop], folder: Path, seed: int, *, mirrored: bool = True) -> list[dict[str, Any]]:
    """Records of these crops and of a halftone drawn on each real one, in `folder`; with `mirrored`, of both twice.

    What has letters on it is not mirrored: then they would be none. A category is a fake's type, or `photo`; `crop` is
    what a picture, its mirror image and their halftones have in common.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for number, each in enumerate(crops_):
        image = to_rgb(each.path)
        twice = mirrored and not LETTERS.search(_said(each))
        views = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)] if twice else [image]
        for view, picture in enumerate(views):
            name = f"images/{number:04}-{view}"
            made = crops.compress(picture, rng) if view else each.path.read_bytes()
            records.append(_save(folder, f"{name}.jpg", made, each, each.record["artifact"], _said(each)))
            if each.is_real:
                dotted = crops.compress(halftone(picture, rng), rng)
                said = answer(Image.open(io.BytesIO(dotted)))
                records.append(_save(folder, f"{name}-{HALFTONE}.jpg", dotted, each, HALFTONE, said))
    return records


def replay(folder: Path, count: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Records of `count` images of the known types and reals, half of each, from bundled photos it was trained on."""
    return known(folder, "train", count, autoencoders(seed), seed)


def known(folder: Path, side: Split, count: int, made_by: Autoencoders, seed: int = SEED) -> list[dict[str, Any]]:
    """Records of `count` images of the known types and reals, half of each, from the bundled photos of one side."""
    records = dataset.write(folder, bundled(side), count, made_by, seed)
    return [{**record, "cate": record["artifact"] or "photo"} for record in records]


def autoencoders(seed: int = SEED) -> Autoencoders:
    """Makers of the known types, trained on the bundled photos that the checkpoint was trained on."""
    return fakes.train_autoencoders(list(bundled("train").values()), seed, AUTOENCODER_STEPS)


def bundled(side: Split = "train") -> dict[str, Image.Image]:
    """The photos of one side that are bundled with scikit-image and scikit-learn, by name."""
    found = photos.bundled()
    sides = photos.split([photo.name for photo in found])
    return {photo.name: photo.pixels() for photo in found if sides[photo.name] == side}


def write(records: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """In FakeClue's format; images are named relative to the file's folder."""
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _purposes(names: Sequence[str]) -> dict[str, Purpose]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    found: dict[str, Purpose] = {}
    start = 0.0
    for purpose, share in SHARES.items():
        for name in ordered[round(start * len(ordered)) : round((start + share) * len(ordered))]:
            found[name] = purpose
        start += share
    return found


def _said(crop: Crop) -> str:
    text: str = crop.record["conversations"][1]["value"]
    return text


def _save(folder: Path, name: str, jpeg: bytes, crop: Crop, artifact: str | None, said: str) -> dict[str, Any]:
    (folder / name).write_bytes(jpeg)
    width, height = Image.open(io.BytesIO(jpeg)).size
    return {
        "image": name,
        "label": REAL if artifact is None else FAKE,
        "cate": artifact or "photo",
        "width": width,
        "height": height,
        "conversations": [{"from": "human", "value": Prompt().text}, {"from": "gpt", "value": said}],
        "photo": crop.record["photo"],
        "crop": crop.record["image"],
        "artifact": artifact,
    }
