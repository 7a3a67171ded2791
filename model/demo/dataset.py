"""The demo data set on disk: JPEG files and FakeClue-format records, one set per side of the split.

A record also names its `photo` and `artifact` (null for a real image), which training ignores and evaluation groups by.
Knows photos, crops, fakes and explanations; nothing of models.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from model.demo import crops, fakes
from model.demo.explanations import explain
from model.demo.fakes import ARTIFACTS, Artifact, Autoencoders
from model.manifest import Prompt

REAL, FAKE = 1, 0  # FakeClue's labels
REAL_SHARE = 0.5
RECORDS = "records.json"


@dataclass(frozen=True)
class Made:
    """One image of the data set: its JPEG bytes, what was done to it, and what should be said of it."""

    jpeg: bytes
    side: int
    artifact: Artifact | None
    answer: str


def make(photo: Image.Image, artifact: Artifact | None, autoencoders: Autoencoders, rng: Generator, side: int) -> Made:
    """One real (`artifact` None) or fake image of `side` pixels from a photo.

    The answer is chosen by the pixels after compression, which are the ones the model sees.
    """
    image = crops.crop(photo, rng, side)
    captioned = artifact is None and rng.random() < crops.CAPTION_SHARE
    if captioned:
        caption = crops.any_caption(rng)
        image = crops.print_caption(image, caption, crops.text_mask(side, caption))
    if artifact is not None:
        image = fakes.fake(image, artifact, autoencoders, rng)
    jpeg = crops.compress(image, rng)
    answer = explain(Image.open(io.BytesIO(jpeg)), artifact, Prompt(), captioned=captioned)
    return Made(jpeg, side, artifact, answer)


def write(
    folder: Path, photos: Mapping[str, Image.Image], count: int, autoencoders: Autoencoders, seed: int
) -> list[dict[str, Any]]:
    """Write `count` images made from `photos` (name to pixels) below `folder`, with `records.json`; photos in turn."""
    rng = np.random.default_rng(seed)
    names = sorted(photos)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        name = names[number % len(names)]
        made = make(photos[name], any_artifact(rng), autoencoders, rng, crops.any_side(rng))
        file = f"images/{number:05}.jpg"
        (folder / file).write_bytes(made.jpeg)
        records.append(record(file, made, name))
    (folder / RECORDS).write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    return records


def any_artifact(rng: Generator) -> Artifact | None:
    return None if rng.random() < REAL_SHARE else ARTIFACTS[int(rng.integers(len(ARTIFACTS)))]


def record(file: str, made: Made, photo: str) -> dict[str, Any]:
    return {
        "image": file,
        "label": REAL if made.artifact is None else FAKE,
        "cate": "demo",
        "width": made.side,
        "height": made.side,
        "conversations": [
            {"from": "human", "value": Prompt().text},
            {"from": "gpt", "value": made.answer},
        ],
        "photo": photo,
        "artifact": made.artifact,
    }
