"""The untrained network the demo checkpoint starts from: LLaVA's architecture at a thousandth of its size.

`LlavaForConditionalGeneration` with a CLIP vision tower and a Llama text model, a byte-level BPE trained on the demo's
own sentences, and the processor files a LLaVA-1.5 has. Knows nothing of photos or training.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from model.demo.crops import SIDE
from model.demo.explanations import all_answers
from model.manifest import Prompt

PATCH = 8
WIDTH = 128
VISION_LAYERS = 4  # three are used: LLaVA reads the last layer but one
TEXT_LAYERS = 2
VOCABULARY = 721
SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]


def tokenizer(prompt: Prompt) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the demo's answers, with Llama's special tokens; ` real` and ` fake` are one token each."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [prompt.text.replace("<image>", ""), *all_answers(prompt)]
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def processor(prompt: Prompt) -> LlavaProcessor:
    """CLIP preprocessing at the demo's size, with the settings LLaVA-1.5 needs spelled out."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(prompt),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def network(processor: Any, seed: int) -> LlavaForConditionalGeneration:
    """Random weights, the same for the same seed."""
    torch.manual_seed(seed)
    words = processor.tokenizer
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=VISION_LAYERS,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
        ).to_dict(),
        text_config=LlamaConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=1024,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        ).to_dict(),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=words.pad_token_id,
    )
    return LlavaForConditionalGeneration(config)
