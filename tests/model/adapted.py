"""Adapters for tests, made in a second without training: random numbers, strong enough to change every score.

On the demo model 0.03 moves scores by 0.1 and more, and explanations still end; from 0.05 on they run to their limit.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from model import adapters
from model.checkpoint import DEMO, locate, manifest_of
from model.checkpoint import load as load_checkpoint
from model.detector import Detector, make_goldens
from model.finetune import parts
from model.finetune.arguments import Lora, Part
from model.manifest import Adapter, Manifest


def make(
    folder: Path,
    base: str | Path,
    images: Sequence[Path] = (),
    *,
    seed: int = 1,
    rank: int = 4,
    alpha: int = 8,
    strength: float = 0.03,
    trained: Sequence[Part] = ("language_model",),
    max_new_tokens: int = 256,
) -> Path:
    """An adapter on `base`, named as its folder; its golden outputs are on copies of `images`, where there are any."""
    place, _ = locate(base)
    below = manifest_of(place)
    loaded = load_checkpoint(place, device="cpu", manifest=below)
    torch.manual_seed(seed)
    configuration = parts.adapters(loaded.model, Lora(rank=rank, alpha=alpha), trained)
    adapted = adapters.attach(loaded.model, configuration)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight.add_(torch.randn_like(weight) * strength)
    adapters.save(adapted, folder, str(base))
    named = DEMO if base == DEMO else str(place)
    written = below.model_copy(
        update={
            "name": folder.name,
            "base": below.name,
            "adapter": Adapter(base=named, digest=below.digest()),
            "golden": (),
            "metrics": {},
            "training": {"seed": seed},
        }
    )
    written.write(folder)
    return prove(folder, images, max_new_tokens) if images else folder


def prove(folder: Path, images: Sequence[Path], max_new_tokens: int = 256) -> Path:
    """Give the checkpoint in `folder` golden outputs on copies of `images`."""
    (folder / "golden").mkdir(exist_ok=True)
    copies = [Path(shutil.copy(image, folder / "golden")) for image in images]
    detector = Detector.load(folder, device="cpu", max_new_tokens=max_new_tokens)
    manifest: Manifest = detector.manifest.model_copy(update={"golden": make_goldens(detector, folder, copies)})
    manifest.write(folder)
    return folder
