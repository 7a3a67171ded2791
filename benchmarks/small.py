"""The small checkpoint that speed is measured on: FakeVLM's token geometry, a two-thousandth of its weights, trained.

336 pixels, patches of 14, 576 image tokens, the published prompt; as in FakeVLM, nearly all of the work is the language
model's. It is trained on drawn pictures until its answers end by themselves: with random weights every answer would run
to the limit, and agreement between two loops would mean nothing. `python -m benchmarks.small` makes it anew.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.pictures import Picture, answers, pictures
from model.checkpoint import save_classic
from model.decode import to_rgb
from model.manifest import Manifest
from model.preprocess import to_pixels
from model.prompt import encode_answer, encode_prompt

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "checkpoint"
PATCH, SIDE, FIRST_SIDE = 14, 336, 84  # it learns what to say on 36 image tokens, a tenth of the work, then on 576
VISION_WIDTH, VISION_LAYERS = 96, 3
WIDTH, LAYERS, HEADS = 192, 6, 6
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
IGNORED = -100  # targets that carry no loss


def tokenizer(prompt: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the answers: about a token a word."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([prompt.replace("<image>", ""), *answers()], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def processor(prompt: str, side: int) -> LlavaProcessor:
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(prompt),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def network(words: Any, side: int) -> LlavaForConditionalGeneration:
    """Random weights."""
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        projection_dim=VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=3,
        image_size=side,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=8 * WIDTH // 3,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=2048,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=words.pad_token_id,
    )
    return LlavaForConditionalGeneration(config)


def enlarged(small: Any, words: Any, side: int) -> LlavaForConditionalGeneration:
    """The same weights for larger pictures: position embeddings are interpolated, nothing else depends on the size."""
    large = network(words, side)
    weights = small.state_dict()
    name = next(name for name in weights if name.endswith("position_embedding.weight"))
    cls, grid = weights[name][:1], weights[name][1:]
    square, wanted = math.isqrt(len(grid)), side // PATCH
    grid = grid.T.reshape(1, -1, square, square)
    grid = nn.functional.interpolate(grid, size=(wanted, wanted), mode="bilinear", align_corners=False)
    weights[name] = torch.cat([cls, grid.flatten(2)[0].T])
    large.load_state_dict(weights)
    return large


def train(net: Any, made: LlavaProcessor, manifest: Manifest, examples: Sequence[Picture], **plan: Any) -> float:
    """Train in place in bfloat16 with plain AdamW; the mean loss of the last 20 steps.

    `plan`: `steps`, `batch` and `rate`, the peak learning rate.
    """
    prompt = encode_prompt(
        made.tokenizer,
        manifest.prompt,
        image_token="<image>",
        image_tokens=(net.config.vision_config.image_size // PATCH) ** 2,
    )
    pixels = to_pixels(made, [to_rgb(example.jpeg) for example in examples]).half()
    spoken = [
        (*encode_answer(made.tokenizer, manifest.prompt, e.answer), made.tokenizer.eos_token_id) for e in examples
    ]
    net.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan["rate"], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan["rate"], total_steps=plan["steps"], pct_start=0.1)
    losses: list[float] = []
    for step in range(plan["steps"]):
        rows = torch.randint(len(examples), (plan["batch"],)).tolist()
        longest = max(len(spoken[row]) for row in rows)
        ids = torch.full((len(rows), len(prompt) + longest), made.tokenizer.pad_token_id)
        labels = torch.full((len(rows), longest), IGNORED)
        ids[:, : len(prompt)] = torch.tensor(prompt)
        for place, row in enumerate(rows):
            words = torch.tensor(spoken[row])
            ids[place, len(prompt) : len(prompt) + len(words)] = labels[place, : len(words)] = words
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(input_ids=ids, pixel_values=pixels[rows].float(), logits_to_keep=longest + 1).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 20 == 0:
            log.info("step %d of %d: loss %.3f", step + 1, plan["steps"], sum(losses[-20:]) / 20)
    return sum(losses[-20:]) / 20


def build(folder: Path = FOLDER) -> Path:
    """Train it, on a CPU, and write it."""
    torch.manual_seed(0)
    manifest = Manifest(name="benchmark", kind="demo", base="random weights, trained by benchmarks.small (not FakeVLM)")
    made = processor(manifest.prompt.text, FIRST_SIDE)
    net = network(made.tokenizer, FIRST_SIDE)
    train(net, made, manifest, list(pictures(2000, 1, FIRST_SIDE)), steps=300, batch=32, rate=2e-3)
    made = processor(manifest.prompt.text, SIDE)
    net = enlarged(net, made.tokenizer, SIDE)
    train(net, made, manifest, list(pictures(600, 2, SIDE)), steps=120, batch=8, rate=5e-4)
    return save_classic(net, made, manifest, folder, torch.float16)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    log.info("written to %s", build())
