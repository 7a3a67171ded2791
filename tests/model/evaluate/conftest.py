"""A small labelled album in FakeClue's format, for what is measured end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model import manifest as manifests
from model.detector import Detector
from model.manifest import Calibration

REAL_TEXT = "This is a real image. The texture is natural."
FAKE_TEXT = "This is a fake image. The texture is over-smooth."
COLORS = ("red", "green", "blue", "black", "white", "yellow", "cyan", "magenta")


def record(number: int, **changes: Any) -> dict[str, Any]:
    """A good record of image `number`: even numbers are real."""
    real = number % 2 == 0
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": REAL_TEXT if real else FAKE_TEXT}]
    made = {"image": f"{number}.png", "label": int(real), "cate": "ab"[number % 3 == 0], "conversations": turns}
    return {**made, **changes}


@pytest.fixture(scope="session")
def divided(tiny_checkpoint: Path, images: list[Image.Image]) -> Detector:
    """A detector whose calibration puts the boundary amid the scores of `images`: half are real, half fake."""
    logits = sorted(verdict.logit for verdict in Detector.load(tiny_checkpoint, device="cpu").judge(images))
    calibration = Calibration(method="platt", scale=1.0, bias=-(logits[3] + logits[4]) / 2)
    manifest = manifests.read(tiny_checkpoint).model_copy(update={"calibration": calibration})
    return Detector.load(tiny_checkpoint, device="cpu", manifest=manifest, max_new_tokens=12)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Eight images of different colours, and `records.json` about them."""
    return make_album(tmp_path / "album")


def make_album(folder: Path) -> Path:
    folder.mkdir()
    for number, color in enumerate(COLORS):
        Image.new("RGB", (48, 40), color).save(folder / f"{number}.png")
    (folder / "records.json").write_text(json.dumps([record(number) for number in range(len(COLORS))]))
    return folder
