"""A LLaVA small enough for tests: the real classes and file formats, a few thousand random weights, its own tokenizer.

Random weights give nearly the same score for every image, so `build` scales them up until images differ, and the rows
of the two verdict words further, until scores are as far from the boundary as a trained model's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from model import checkpoint
from model.manifest import FAKEVLM_PROMPT, Manifest

SIZE, PATCH = 32, 8
CORPUS = [FAKEVLM_PROMPT, "This is a real image.", "This is a fake image. The texture is over-smooth."] * 20


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which ` real` and ` fake` are single tokens, with the special tokens of Llama."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        min_frequency=1,
        special_tokens=["<s>", "</s>", "<pad>", AddedToken("<image>", special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def processor(size: int = SIZE, patch: int = PATCH) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        tokenizer=tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def config(vocabulary: PreTrainedTokenizerFast, size: int = SIZE, patch: int = PATCH) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=size,
        patch_size=patch,
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary) + 3,  # padded, as FakeVLM's is
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        pad_token_id=vocabulary.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=vocabulary.convert_tokens_to_ids("<image>"),
        image_seq_length=(size // patch) ** 2,
    )


def build(size: int = SIZE, patch: int = PATCH, seed: int = 0) -> tuple[Any, LlavaProcessor]:
    torch.manual_seed(seed)
    made = processor(size, patch)
    model = LlavaForConditionalGeneration(config(made.tokenizer, size, patch)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
        words = made.tokenizer.convert_tokens_to_ids(["Ġreal", "Ġfake"])
        model.lm_head.weight[words] *= 8
    return model, made


def manifest() -> Manifest:
    return Manifest(name="tiny", kind="demo", base="random weights")


def save(folder: Path, size: int = SIZE, patch: int = PATCH) -> Path:
    model, made = build(size, patch)
    return checkpoint.save_classic(model, made, manifest(), folder, torch.float32)
