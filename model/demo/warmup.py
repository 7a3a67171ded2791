"""Warming up the vision tower: before it must feed a language model, it learns to tell the artifacts apart.

Joint training alone from random weights spends most of its steps on spelling. The classifier's head is thrown away.
Knows nothing of text.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.decode import to_rgb
from model.demo.dataset import REAL
from model.demo.fakes import ARTIFACTS
from model.preprocess import to_pixels

log = logging.getLogger(__name__)

BATCH = 64
PEAK_LR = 1.5e-3
WEIGHT_DECAY = 0.05


def load_pixels(folder: Path, records: Sequence[dict[str, Any]], processor: Any) -> torch.Tensor:
    """All images as the processor gives them, float16 to save memory: images × 3 × height × width."""
    parts = []
    for start in range(0, len(records), 256):
        images = [to_rgb(folder / record["image"]) for record in records[start : start + 256]]
        parts.append(to_pixels(processor, images).half())
    return torch.cat(parts)


def classes(records: Sequence[dict[str, Any]]) -> torch.Tensor:
    """0 for real, 1 and up for each artifact."""
    return torch.tensor([0 if r["label"] == REAL else 1 + ARTIFACTS.index(r["artifact"]) for r in records])


def warm_up(model: Any, pixels: torch.Tensor, targets: torch.Tensor, *, epochs: int, seed: int) -> float:
    """Train the vision tower of `model` in place to tell real images and artifacts apart; the last epoch's mean loss.

    Reads the layer LLaVA reads, without CLS, averaged over patches.
    """
    torch.manual_seed(seed)
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    head = nn.Linear(model.config.vision_config.hidden_size, 1 + len(ARTIFACTS))
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    model.set_attn_implementation("eager")
    tower.train()
    mean = math.nan
    for epoch in range(epochs):
        total = 0.0
        for rows in _batches(len(pixels)):
            # bfloat16 with plain attention is twice as fast on a CPU as anything else.
            with torch.autocast("cpu", dtype=torch.bfloat16):
                features = tower(_mirror(pixels[rows].float()), output_hidden_states=True).hidden_states[layer][:, 1:]
            logits = head(features.float().mean(1))
            loss = nn.functional.cross_entropy(logits, targets[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        mean = total / (len(pixels) // BATCH)
        log.info("warm-up epoch %d of %d: loss %.3f", epoch + 1, epochs, mean)
    tower.eval()
    return mean


def _batches(count: int) -> list[torch.Tensor]:
    """Row numbers in random order, in full batches; up to 63 rows are left out."""
    return list(torch.randperm(count)[: count // BATCH * BATCH].view(-1, BATCH))


def _rate(step: int, steps: int) -> float:
    """Linear over the first twentieth, then cosine to a fiftieth."""
    ramp = max(1, steps // 20)
    if step < ramp:
        return (step + 1) / ramp
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def _mirror(pixels: torch.Tensor) -> torch.Tensor:
    """Half of the images top to bottom: no artifact minds, and the photos last longer."""
    flip = torch.rand(len(pixels)) < 0.3
    pixels[flip] = pixels[flip].flip(2)
    return pixels
