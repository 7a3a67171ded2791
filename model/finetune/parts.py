"""Which weights of a LLaVA train: the parts of full finetuning, and where adapters go.

The vision tower's last layers lie behind the one its features are taken from (FakeVLM: layer -2 of 24): no gradient
ever reaches them, so they count as frozen. It knows nothing of data or of the loop.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from peft import LoraConfig

from model.finetune.arguments import Lora, Part

PREFIXES: dict[Part, tuple[str, ...]] = {
    "language_model": ("model.language_model.", "lm_head."),
    "projector": ("model.multi_modal_projector.",),
    "vision_tower": ("model.vision_tower.",),
}
LAYER = "model.vision_tower.encoder.layers."

# Linear layers by their full names, which peft matches as a whole.
LANGUAGE_TARGETS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.([qkvo]_proj|gate_proj|up_proj|down_proj)"
VISION_TARGETS = r"model\.vision_tower\.encoder\.layers\.({layers})\.(self_attn|mlp)\.([qkv]_proj|out_proj|fc1|fc2)"


def freeze_all_but(network: Any, trained: Collection[Part]) -> None:
    """Leave only the parts in `trained` with gradients."""
    used = used_vision_layers(network.config)
    for name, weight in network.named_parameters():
        weight.requires_grad_(any(name.startswith(PREFIXES[part]) for part in trained) and _is_reached(name, used))


def adapters(network: Any, lora: Lora, trained: Collection[Part]) -> LoraConfig:
    """Adapters on the linear layers of the parts in `trained`; a projector among them trains itself, beside them."""
    layers = "|".join(map(str, range(used_vision_layers(network.config))))
    patterns = [LANGUAGE_TARGETS] * ("language_model" in trained)
    patterns += [VISION_TARGETS.format(layers=layers)] * ("vision_tower" in trained)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(patterns),
        modules_to_save=["multi_modal_projector"] if "projector" in trained else None,
    )


def train_in_full_precision(network: Any) -> None:
    """What trains is kept in float32 even on a base in bfloat16: small updates would round to nothing."""
    for weight in network.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.float32)


def used_vision_layers(config: Any) -> int:
    """How many of the tower's layers lie before its features; hidden state 0 is the embedding."""
    chosen = config.vision_feature_layer
    states = config.vision_config.num_hidden_layers + 1
    return int(max(layer % states for layer in ([chosen] if isinstance(chosen, int) else chosen)))


def _is_reached(name: str, used: int) -> bool:
    if name.startswith(LAYER):
        return int(name.removeprefix(LAYER).partition(".")[0]) < used
    return not name.startswith("model.vision_tower.post_layernorm")
