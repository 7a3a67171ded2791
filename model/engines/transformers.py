"""The engine that runs a checkpoint in this process: one prefill scores a batch, and its cache goes on to the text.

Every image has the same number of tokens and the same prompt, so a batch needs no padding. Deterministic: greedy, no
gradient, no sampling. It knows nothing of how batches are filled.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from PIL import Image

from model.answer import whole_sentences
from model.checkpoint import Checkpoint
from model.engines.decoding import Slab, decode
from model.engines.engine import Answer, Chooser, EngineError, Score
from model.manifest import Manifest
from model.preprocess import to_pixels
from model.prompt import Label

log = logging.getLogger(__name__)

# Enough rows to keep a GPU's arithmetic busy: prefill is bound by it, and more rows only take more memory.
PREFILL_ROWS = 16


class TransformersEngine:
    """Runs one checkpoint on the device it was loaded to. `max_new_tokens` bounds an explanation after its opening."""

    name = "transformers"

    def __init__(self, checkpoint: Checkpoint, *, max_new_tokens: int = 256) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        self._tokenizer = checkpoint.processor.tokenizer
        self._max_new_tokens = max_new_tokens

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
        prompt = self._checkpoint.tokens.prompt
        cache = Slab(
            self._model.config.text_config.num_hidden_layers, len(prepared), len(prompt) + self._max_new_tokens
        )
        for start in range(0, len(prepared), PREFILL_ROWS):
            part = prepared[start : start + PREFILL_ROWS]
            cache.open(len(part))
            self._model.model(
                input_ids=self._ids(prompt[:-1]).expand(len(part), -1),
                pixel_values=self._on_device(part),
                past_key_values=cache,
                use_cache=True,
            )
            cache.keep(range(len(part)))
        written = self._decode(cache, self._ids([prompt[-1:]] * len(prepared)))
        return [self._text((), tokens) for tokens in written]

    @torch.inference_mode()
    def _answer(self, prepared: Sequence[torch.Tensor], choose: Chooser) -> list[Answer]:
        """Prefill a few rows at a time, keep those that want text, and decode all of these together."""
        tokens = self._checkpoint.tokens
        length = len(tokens.prefill) + 1 + len(tokens.suffix) + self._max_new_tokens
        cache = Slab(self._model.config.text_config.num_hidden_layers, len(prepared), length)
        scores: list[Score] = []
        labels: list[Label | None] = []
        for start in range(0, len(prepared), PREFILL_ROWS):
            found = self._prefill(prepared[start : start + PREFILL_ROWS], cache)
            wanted = [choose(start + place, score) for place, score in enumerate(found)]
            cache.keep([place for place, label in enumerate(wanted) if label is not None])
            scores, labels = scores + found, labels + wanted
        texts = iter(self._explain(cache, [label for label in labels if label is not None]))
        return [
            Answer(score, None if label is None else next(texts)) for score, label in zip(scores, labels, strict=True)
        ]

    def _prefill(self, prepared: Sequence[torch.Tensor], cache: Slab) -> list[Score]:
        """Scores at the position after prompt and prefix; the cache goes up to there."""
        cache.open(len(prepared))
        outputs = self._model.model(
            input_ids=self._ids(self._checkpoint.tokens.prefill).expand(len(prepared), -1),
            pixel_values=self._on_device(prepared),
            past_key_values=cache,
            use_cache=True,
        )
        return self._score(outputs.last_hidden_state[:, -1])

    def _score(self, hidden: torch.Tensor) -> list[Score]:
        """The two words' logits are computed in float32: bfloat16 would round a logit near 20 to steps of 0.125."""
        pair = self._ids((self._checkpoint.tokens.real, self._checkpoint.tokens.fake))
        logits = self._model.lm_head(hidden).float()
        logits[:, pair] = hidden.float() @ self._model.lm_head.weight[pair].float().T
        mass = logits.softmax(dim=-1)[:, pair].sum(dim=-1)
        rows = torch.cat([logits[:, pair], mass[:, None]], dim=-1).tolist()
        if not all(math.isfinite(number) for row in rows for number in row):
            raise EngineError(f"{self.manifest.name} gave a score that is not a number: weights or dtype are wrong.")
        return [Score(real=real, fake=fake, pair_mass=min(mass, 1.0)) for real, fake, mass in rows]

    def _explain(self, cache: Slab, labels: Sequence[Label]) -> list[str]:
        """Text for each kept row, after its label's opening sentence."""
        if not labels:
            return []
        tokens = self._checkpoint.tokens
        openings = [(*tokens.prefix, tokens.verdict(label), *tokens.suffix) for label in labels]
        first = self._ids([opening[len(tokens.prefix) :] for opening in openings])
        written = self._decode(cache, first)
        return [self._text(opening, tokens) for opening, tokens in zip(openings, written, strict=True)]

    def _decode(self, cache: Slab, first: torch.Tensor) -> list[list[int]]:
        end = self._tokenizer.eos_token_id
        return decode(self._model, cache, first, end=end, limit=self._max_new_tokens)

    def _text(self, opening: tuple[int, ...], written: list[int]) -> str:
        """An answer cut at the limit, so that it holds no end, keeps its whole sentences."""
        ended = written[-1:] == [self._tokenizer.eos_token_id]
        ids = [*opening, *(written[:-1] if ended else written)]
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        return text if ended else whole_sentences(text)

    def _ids(self, ids: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(ids, device=self._checkpoint.device)

    def _on_device(self, prepared: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(prepared)).to(self._checkpoint.device, self._model.dtype)
