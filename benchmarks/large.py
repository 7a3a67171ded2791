"""A LLaVA-1.5-7B of random weights, built on the device: FakeVLM's size and geometry where its weights are not at hand.

What it says is nonsense and never ends by itself, so whoever times it fixes the lengths. Its tokenizer is the small
checkpoint's; its table is padded to FakeVLM's size, so that every matrix is as large as in FakeVLM.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks import small
from model import prompt as prompts
from model.checkpoint import Checkpoint, image_token_count
from model.manifest import Manifest

VOCABULARY = 32064


def config(words: Any) -> LlavaConfig:
    """LLaVA-1.5-7B: CLIP ViT-L/14 at 336 pixels, a two-layer projector, Llama 7B (see fakeVLM's own config)."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        projection_dim=768,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=small.SIDE,
        patch_size=small.PATCH,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def build(device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """The checkpoint, made on `device` without passing through the host's memory."""
    manifest = Manifest(name="llava-1.5-7b-random", kind="demo", base="random weights of LLaVA-1.5-7B's size")
    processor = small.processor(manifest.prompt.text, small.SIDE)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            network = LlavaForConditionalGeneration(config(processor.tokenizer)).eval()
    finally:
        torch.set_default_dtype(before)
    tokens = prompts.encode(
        processor.tokenizer, manifest.prompt, image_token="<image>", image_tokens=image_token_count(network.config)
    )
    return Checkpoint(processor, manifest, tokens, network)
