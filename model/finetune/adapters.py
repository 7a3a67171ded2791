"""LoRA: adapters put on, and merged with a proof that they did something.

An adapter saved under one key layout can load under another and silently do nothing; a merge that leaves every output
as it was is therefore an error here, and so is one that does not answer as the adapters did.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from model.finetune.arguments import Lora

# Linear layers of the language model only: names below `vision_tower` or the projector do not match.
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

# Above rounding in float32, far below what one update of any use changes.
SMALLEST_CHANGE = 1e-5
# Merging adds the update to the weights before multiplying instead of after; bfloat16 keeps 8 bits of the sum.
MERGE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


class MergeFailed(RuntimeError):
    """The merged network answers like the base, or unlike the adapters; it must not be used."""


def attach(model: Any, lora: Lora) -> Any:
    """`model` with fresh adapters, the only weights that train."""
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=TARGETS)
    return get_peft_model(model, config)


def merge(adapted: Any, batch: dict[str, torch.Tensor]) -> Any:
    """The network with its adapters folded into the weights.

    `batch` is any batch of training data; its logits are compared without, with and after merging the adapters.
    Raises MergeFailed.
    """
    adapted.eval()
    with adapted.disable_adapter():
        base = _logits(adapted, batch)
    with_adapters = _logits(adapted, batch)
    merged = adapted.merge_and_unload(safe_merge=True)
    after = _logits(merged, batch)
    change, error = _distance(after, base), _distance(after, with_adapters)
    if change <= SMALLEST_CHANGE:
        raise MergeFailed(f"Merging the adapters changed no output (largest change {change:.1e}).")
    if error > MERGE_TOLERANCE[merged.dtype] * max(1.0, change):
        raise MergeFailed(f"The merged network answers unlike its adapters (logits differ by up to {error:.1e}).")
    return merged


@torch.inference_mode()
def _logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits: torch.Tensor = model(**inputs, logits_to_keep=1).logits
    return logits.float()


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())
