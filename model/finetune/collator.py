"""From rows to a batch: pixels, once through the checkpoint's processor, and tokens; only the answer has labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.checkpoint import Interface
from model.decode import UndecodableImage, to_rgb
from model.finetune.records import Row
from model.preprocess import to_pixels

IGNORED = -100  # the target that torch's cross entropy leaves out


@dataclass(frozen=True)
class Collator:
    """Callable for a DataLoader. Every row has the same prompt, so answers start at one position, and only they vary.

    Padded on the right, to the longest row of the batch.
    """

    checkpoint: Interface

    @property
    def prompt_length(self) -> int:
        """Tokens before every answer."""
        return len(self.checkpoint.tokens.prompt)

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        prompt, padding = self.checkpoint.tokens.prompt, self.checkpoint.processor.tokenizer.pad_token_id
        longest = max(len(row.answer) for row in rows)
        ids = torch.full((len(rows), len(prompt) + longest), padding)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        ids[:, : len(prompt)] = torch.tensor(prompt)
        for place, row in enumerate(rows):
            end = len(prompt) + len(row.answer)
            ids[place, len(prompt) : end] = labels[place, len(prompt) : end] = torch.tensor(row.answer)
            mask[place, :end] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": self._pixels(rows)}

    def _pixels(self, rows: Sequence[Row]) -> torch.Tensor:
        images = []
        for row in rows:
            try:
                images.append(to_rgb(row.image))
            except UndecodableImage as error:
                raise UndecodableImage(f"{row.image}: {error}") from error
        return to_pixels(self.checkpoint.processor, images)
