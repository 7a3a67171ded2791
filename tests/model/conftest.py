"""A tiny checkpoint on disk, and a detector loaded from it by the real loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from model import manifest as manifests
from model.checkpoint import Checkpoint, load
from model.detector import Detector
from model.engines.transformers import TransformersEngine
from model.manifest import Calibration
from tests.model import tiny

# A network this small only loses time to threads, all the more where test processes share the cores.
torch.set_num_threads(1)

COLORS = ("red", "green", "blue", "black", "white", "yellow", "cyan", "magenta")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def loaded(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint, device="cpu")


@pytest.fixture
def engine(loaded: Checkpoint) -> TransformersEngine:
    return TransformersEngine(loaded, max_new_tokens=12)


@pytest.fixture
def detector(engine: TransformersEngine) -> Detector:
    return Detector(engine)


@pytest.fixture
def divided(tiny_checkpoint: Path, detector: Detector, images: list[Image.Image]) -> Detector:
    """A detector whose calibration puts the boundary amid the scores of `images`: half are real, half fake."""
    logits = sorted(verdict.logit for verdict in detector.judge(images))
    bias = -(logits[3] + logits[4]) / 2
    manifest = manifests.read(tiny_checkpoint).model_copy(
        update={"calibration": Calibration(method="platt", scale=1.0, bias=bias)}
    )
    return Detector.load(tiny_checkpoint, device="cpu", manifest=manifest, max_new_tokens=12)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Eight images, no two of which score alike."""
    return [Image.new("RGB", (48, 40), color) for color in COLORS]
