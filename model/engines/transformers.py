"""The engine that runs a checkpoint in this process: one prefill scores a batch, and its cache goes on to the text.

Every image has the same number of tokens and the same prompt, so a batch needs no padding. Deterministic: greedy, no
gradient, no sampling. It knows nothing of how batches are filled.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from transformers import GenerationConfig

from model.answer import whole_sentences
from model.checkpoint import Checkpoint
from model.engines.engine import Answer, Chooser, EngineError, Score
from model.manifest import Manifest
from model.preprocess import to_pixels
from model.prompt import Label

log = logging.getLogger(__name__)


class TransformersEngine:
    """Runs one checkpoint on the device it was loaded to. `max_new_tokens` bounds an explanation after its opening."""

    name = "transformers"

    def __init__(self, checkpoint: Checkpoint, *, max_new_tokens: int = 256) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        self._tokenizer = checkpoint.processor.tokenizer
        # A checkpoint's own defaults (temperature, penalties, lengths) must not leak into what is generated here.
        self._model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            bos_token_id=self._tokenizer.bos_token_id,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.eos_token_id,
        )

    @property
    def dtype(self) -> str:
        return self._checkpoint.dtype

    @property
    def manifest(self) -> Manifest:
        return self._checkpoint.manifest

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Pixels of one RGB image: float32, 3 × height × width."""
        return to_pixels(self._checkpoint.processor, [image])[0]

    def answer(self, prepared: Sequence[torch.Tensor], choose: Chooser) -> list[Answer]:
        """See `Engine.answer`. A batch that does not fit GPU memory is run again in two halves."""
        if not prepared:
            return []
        try:
            return self._answer(prepared, choose)
        except torch.OutOfMemoryError:
            if len(prepared) == 1:
                raise
        half = len(prepared) // 2
        log.warning("a batch of %d does not fit GPU memory: trying halves", len(prepared))
        torch.cuda.empty_cache()
        rest = self.answer(prepared[half:], lambda index, score: choose(index + half, score))
        return self.answer(prepared[:half], choose) + rest

    @torch.inference_mode()
    def complete(self, prepared: Sequence[torch.Tensor]) -> list[str]:
        """See `Engine.complete`."""
        prompt = torch.tensor(self._checkpoint.tokens.prompt, device=self._checkpoint.device)
        ids = prompt.expand(len(prepared), -1)
        pixels = torch.stack(list(prepared)).to(self._checkpoint.device, self._model.dtype)
        generated = self._model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
        return [self._text((), row) for row in generated[:, ids.shape[1] :].tolist()]

    @torch.inference_mode()
    def _answer(self, prepared: Sequence[torch.Tensor], choose: Chooser) -> list[Answer]:
        scores, cache = self._prefill(prepared)
        labels = [choose(index, score) for index, score in enumerate(scores)]
        texts = self._explain(cache, labels)
        return [Answer(score, text) for score, text in zip(scores, texts, strict=True)]

    def _prefill(self, prepared: Sequence[torch.Tensor]) -> tuple[list[Score], Any]:
        """Scores at the position after prompt and prefix, and the cache up to there."""
        prefill = torch.tensor(self._checkpoint.tokens.prefill, device=self._checkpoint.device)
        outputs = self._model.model(
            input_ids=prefill.expand(len(prepared), -1),
            pixel_values=torch.stack(list(prepared)).to(self._checkpoint.device, self._model.dtype),
            use_cache=True,
        )
        return self._score(outputs.last_hidden_state[:, -1]), outputs.past_key_values

    def _score(self, hidden: torch.Tensor) -> list[Score]:
        """The two words' logits are computed in float32: bfloat16 would round a logit near 20 to steps of 0.125."""
        pair = torch.tensor([self._checkpoint.tokens.real, self._checkpoint.tokens.fake], device=hidden.device)
        logits = self._model.lm_head(hidden).float()
        logits[:, pair] = hidden.float() @ self._model.lm_head.weight[pair].float().T
        mass = logits.softmax(dim=-1)[:, pair].sum(dim=-1)
        rows = torch.cat([logits[:, pair], mass[:, None]], dim=-1).tolist()
        if not all(math.isfinite(number) for row in rows for number in row):
            raise EngineError(f"{self.manifest.name} gave a score that is not a number: weights or dtype are wrong.")
        return [Score(real=real, fake=fake, pair_mass=min(mass, 1.0)) for real, fake, mass in rows]

    def _explain(self, cache: Any, labels: Sequence[Label | None]) -> list[str | None]:
        """Text for the rows that have a label, from the prefill's cache, all of them in one batch.

        Rows differ in the verdict's token only, so their lengths are equal (the prompt's tokens guarantee that).
        """
        wanted = [index for index, label in enumerate(labels) if label is not None]
        texts: list[str | None] = [None] * len(labels)
        if not wanted:
            return texts
        if len(wanted) < len(labels):
            cache.batch_select_indices(torch.tensor(wanted, device=self._checkpoint.device))
        tokens = self._checkpoint.tokens
        answers = [(*tokens.prefix, tokens.verdict(cast(Label, labels[row])), *tokens.suffix) for row in wanted]
        for row, opening, generated in zip(wanted, answers, self._generate(cache, answers), strict=True):
            texts[row] = self._text(opening, generated)
        return texts

    def _generate(self, cache: Any, answers: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Greedy continuation of `prompt + answer`, of which the cache holds all but verdict and suffix."""
        ids = torch.tensor(
            [(*self._checkpoint.tokens.prompt, *answer) for answer in answers], device=self._checkpoint.device
        )
        generated = self._model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache)
        return cast(list[list[int]], generated[:, ids.shape[1] :].tolist())

    def _text(self, opening: tuple[int, ...], generated: list[int]) -> str:
        end = self._tokenizer.eos_token_id
        ended = end in generated
        body = generated[: generated.index(end)] if ended else generated
        text = self._tokenizer.decode([*opening, *body], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip() if ended else whole_sentences(text.strip())
