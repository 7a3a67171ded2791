"""Two ways in which others run FakeVLM over a set of images, to be compared with ours. Both write whole answers.

`published` does what the paper's evaluation does, as far as its cost goes: the text is padded to 1024 tokens before the
image is expanded, batches are fixed, and each runs until its longest row ends. `sensible` is what a careful user of
transformers writes: no padding, batches of 16. Neither knows our engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from model.answer import Reading, parse
from model.checkpoint import Checkpoint
from model.decode import to_rgb

BATCH = 16
NEW_TOKENS = 256
PADDED_TO = 1024

Loop = Callable[[Checkpoint, Sequence[bytes]], list[Reading]]


def published(checkpoint: Checkpoint, files: Sequence[bytes]) -> list[Reading]:
    """Prefill of 1024 + 575 tokens for every image, whatever its prompt's length."""
    prompt = list(checkpoint.tokens.prompt)
    images = prompt.count(checkpoint.model.config.image_token_id)
    padding = PADDED_TO + images - 1 - len(prompt)
    ids = [checkpoint.processor.tokenizer.pad_token_id] * padding + prompt
    return _run(checkpoint, files, ids, [0] * padding + [1] * len(prompt))


def sensible(checkpoint: Checkpoint, files: Sequence[bytes]) -> list[Reading]:
    """The prompt as it is: all of them are equally long."""
    prompt = list(checkpoint.tokens.prompt)
    return _run(checkpoint, files, prompt, [1] * len(prompt))


def _run(checkpoint: Checkpoint, files: Sequence[bytes], ids: list[int], mask: list[int]) -> list[Reading]:
    return [
        reading
        for start in range(0, len(files), BATCH)
        for reading in _batch(checkpoint, files[start : start + BATCH], ids, mask)
    ]


@torch.inference_mode()
def _batch(checkpoint: Checkpoint, files: Sequence[bytes], ids: list[int], mask: list[int]) -> Iterator[Reading]:
    device, tokenizer = checkpoint.device, checkpoint.processor.tokenizer
    images = [to_rgb(file) for file in files]
    pixels = checkpoint.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    answers: Any = checkpoint.model.generate(
        input_ids=torch.tensor([ids] * len(files), device=device),
        attention_mask=torch.tensor([mask] * len(files), device=device),
        pixel_values=pixels.to(device, checkpoint.model.dtype),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts = tokenizer.batch_decode(answers[:, len(ids) :], skip_special_tokens=True)
    return (parse(text) for text in texts)
