"""The engine that runs a checkpoint in this process: one prefill scores a batch, and its cache goes on to the text.

Every image has the same number of tokens and the same prompt, so a batch needs no padding. Deterministic: greedy, no
gradient, no sampling. It knows nothing of how batches are filled.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from PIL import Image
from transformers import Cache

from model import adapters
from model import checkpoint as checkpoints
from model.adapters import AdapterError, Mounted, Weights
from model.answer import decoded
from model.checkpoint import Checkpoint, CheckpointError, Interface
from model.engines.decoding import CompiledDecoder, Slab, decode
from model.engines.engine import Answer, Chooser, EngineError, MemoryShort, OtherBase, Score
from model.manifest import Manifest
from model.preprocess import to_pixels
from model.prompt import Label

log = logging.getLogger(__name__)

# Enough rows to keep a GPU's arithmetic busy: prefill is bound by it, and more rows only take more memory.
PREFILL_ROWS = 16
# Beyond this the weights' share of a decoding step is small (fakevlm's roofline: 42 images/s at 64 rows, 50 at 320).
MOST_ROWS = 256
LESS_FOR_S = 600.0  # a batch that did not fit is not tried again for so long: what took the memory may be gone then
SPARE = 0.1  # of the free memory: fragments, and what other libraries take

Outcome = TypeVar("Outcome")


def rows_that_fit(checkpoint: Checkpoint, length: int) -> int:
    """How many rows of `length` tokens fit the device's free memory, beside one prefill: 1 to `MOST_ROWS`.

    A row's keys and values are 2 × layers × heads × head size numbers a token (512 KiB for FakeVLM in bfloat16). What a
    prefill holds at once is taken as three times the MLP's width and eight times the model's, for every token; the rows
    of the first prefill are copied once there are more.
    """
    text = checkpoint.model.config.text_config
    size = torch.finfo(checkpoint.model.dtype).bits // 8
    head = text.hidden_size // text.num_attention_heads
    row = 2 * text.num_hidden_layers * text.num_key_value_heads * head * length * size
    prefill = PREFILL_ROWS * length * (3 * text.intermediate_size + 8 * text.hidden_size) * size
    rows = int(((1 - SPARE) * free_memory(checkpoint.device) - prefill) / row)
    if rows > PREFILL_ROWS:
        rows = max(PREFILL_ROWS, rows - PREFILL_ROWS)
    return max(1, min(MOST_ROWS, rows))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _in_place(before: Mounted | None, now: Mounted | None) -> bool:
    """Whether the network's layers are the same objects still, what is mounted on them having been written over."""
    return before is now or (before is not None and now is not None and before.adapted is now.adapted)


@dataclass(frozen=True)
class Incoming:
    """Another version on the same base, for the engine that runs one there: see `engine.Successor`."""

    engine: TransformersEngine
    interface: Interface
    weights: Weights | None

    def take_over(self) -> TransformersEngine:
        """The adapters change places. Raises AdapterError."""
        return self.engine.exchanged(self.interface, self.weights)

    def give_back(self) -> None:
        """The adapters that were there before are put back. Raises AdapterError."""
        self.engine.restore(self.weights)


class TransformersEngine:
    """Runs one checkpoint on the device it was loaded to. `max_new_tokens` bounds an explanation after its opening.

    `largest_batch` is how many images run at once, by the memory that was free at first, and fewer for a while after a
    batch did not fit. Batches of up to `compiled_rows` images decode with a compiled step, padded to that many; 0
    compiles nothing.
    """

    name = "transformers"

    def __init__(self, checkpoint: Checkpoint, *, max_new_tokens: int = 256, compiled_rows: int = 0) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        self._tokenizer = checkpoint.processor.tokenizer
        self._max_new_tokens = max_new_tokens
        self._compiled = CompiledDecoder(checkpoint.model, compiled_rows, self._length) if compiled_rows else None
        self.largest_batch = self._largest_yet = rows_that_fit(checkpoint, self._length)
        self._less_until: float | None = None

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
        """See `Engine.answer`. At most `largest_batch` run at once.

        Raises MemoryShort where not even one does.
        """
        return self._in_parts(
            prepared, lambda part, start: self._answer(part, lambda index, score: choose(start + index, score))
        )

    def complete(self, prepared: Sequence[torch.Tensor]) -> list[str]:
        """See `Engine.complete`."""
        return self._in_parts(prepared, lambda part, start: self._complete(part))

    def successor(self, source: str | Path, revision: str | None, manifest: Manifest) -> Incoming:
        """See `Engine.successor`: the adapter is read here, and the prompt encoded."""
        place, revision = checkpoints.locate(source, revision)
        ground = checkpoints.ground_of(place, revision, manifest)
        if ground != self._checkpoint.ground:
            raise OtherBase(f"{manifest.name} stands on another network than {self.manifest.name}.")
        interface = checkpoints.load_interface(place, revision=revision, manifest=manifest)
        adapters.get_ready()
        try:
            weights = adapters.read(Path(place)) if manifest.adapter is not None else None
        except AdapterError as error:
            raise CheckpointError(str(error)) from error
        return Incoming(self, interface, weights)

    def exchanged(self, interface: Interface, weights: Weights | None) -> TransformersEngine:
        """The engine of another version on this network, with `weights` on it.

        What was learned of the memory is kept, and so is what was compiled. Raises AdapterError.
        """
        before = self._checkpoint
        network = before.model
        mounted = adapters.exchange(network, before.mounted, weights, checkpoints.probe(network, interface.tokens))
        other = copy.copy(self)
        other._carry(replace(before, manifest=interface.manifest, tokens=interface.tokens, mounted=mounted))
        if other._compiled is not None and other._length != self._length:
            other._compiled = CompiledDecoder(network, other._compiled.rows, other._length)
        elif not _in_place(before.mounted, mounted):
            other._forget_compiled()
        return other

    def restore(self, tried: Weights | None) -> None:
        """Put back on the network what it had before `exchanged`, whether that worked or not. Raises AdapterError."""
        before = self._checkpoint
        mounted = adapters.restore(before.model, before.mounted, tried)
        self._carry(replace(before, mounted=mounted))
        if not _in_place(before.mounted, mounted):
            self._forget_compiled()

    def release(self) -> None:
        """See `Engine.release`."""
        self._compiled = None
        self._carry(replace(self._checkpoint, model=None, mounted=None))
        gc.collect()  # networks and their hooks refer to one another in circles
        torch.cuda.empty_cache()

    def _forget_compiled(self) -> None:
        if self._compiled is not None:
            self._compiled.forget()

    def _carry(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._model = checkpoint, checkpoint.model

    def _in_parts(
        self, prepared: Sequence[torch.Tensor], run: Callable[[Sequence[torch.Tensor], int], list[Outcome]]
    ) -> list[Outcome]:
        """`run` over parts and where each starts; a part that does not fit memory is run again in two halves."""
        outcomes: list[Outcome] = []
        if self._less_until is not None and time.monotonic() >= self._less_until:
            self.largest_batch, self._less_until = self._largest_yet, None
        while len(outcomes) < len(prepared):
            start = len(outcomes)
            part = prepared[start : start + self.largest_batch]
            try:
                outcomes += run(part, start)
            except torch.OutOfMemoryError as error:
                log.warning("memory ran out: %s", error)
            if len(outcomes) == start:  # the memory is only free again once the error is gone
                self._take_less(len(part))
        return outcomes

    def _take_less(self, tried: int) -> None:
        """For a while smaller batches; the compiled step, which has one width, goes first. Raises MemoryShort."""
        torch.cuda.empty_cache()
        if self._compiled is not None and tried <= self._compiled.rows:
            log.warning("the compiled step does not fit memory: going on without it")
            self._compiled = None
            return
        if tried == 1:
            self._less_until = 0.0  # whoever comes next begins anew: by then there may be room
            raise MemoryShort(f"The memory of {self._checkpoint.device} does not suffice for one image.")
        self.largest_batch, self._less_until = tried // 2, time.monotonic() + LESS_FOR_S
        log.warning("a batch of %d does not fit memory: for a while at most %d", tried, self.largest_batch)

    @torch.inference_mode()
    def _complete(self, prepared: Sequence[torch.Tensor]) -> list[str]:
        prompt, cache = self._checkpoint.tokens.prompt, self._slab()
        for start in range(0, len(prepared), PREFILL_ROWS):
            part = prepared[start : start + PREFILL_ROWS]
            cache.open(len(part), len(prepared) - start)
            self._run(prompt[:-1], part, cache)
            cache.keep(range(len(part)))
        written = self._decode(cache, self._ids([prompt[-1:]] * len(prepared)))
        return [decoded(self._tokenizer, (), tokens) for tokens in written]

    @torch.inference_mode()
    def _answer(self, prepared: Sequence[torch.Tensor], choose: Chooser) -> list[Answer]:
        """Prefill a few rows at a time, keep those that want text, and decode all of these together."""
        if self._compiled is not None and len(prepared) <= self._compiled.rows:
            return self._answer_compiled(self._compiled, prepared, choose)
        cache = self._slab()
        scores: list[Score] = []
        labels: list[Label | None] = []
        for start in range(0, len(prepared), PREFILL_ROWS):
            part = prepared[start : start + PREFILL_ROWS]
            cache.open(len(part), len(prepared) - start)
            found = self._prefill(part, cache)
            wanted = [choose(start + place, score) for place, score in enumerate(found)]
            cache.keep([place for place, label in enumerate(wanted) if label is not None])
            scores, labels = scores + found, labels + wanted
        texts = iter(self._explain(cache, [label for label in labels if label is not None]))
        return [
            Answer(score, None if label is None else next(texts)) for score, label in zip(scores, labels, strict=True)
        ]

    def _answer_compiled(
        self, decoder: CompiledDecoder, prepared: Sequence[torch.Tensor], choose: Chooser
    ) -> list[Answer]:
        """All rows are decoded, also those that want no text: the compiled step has one width."""
        padded = [*prepared, *[prepared[-1]] * (decoder.rows - len(prepared))]
        scores = self._prefill(padded, decoder.cache())[: len(prepared)]
        labels = [choose(index, score) for index, score in enumerate(scores)]
        if not any(labels):
            return [Answer(score, None) for score in scores]
        openings = [self._opening(label or "real") for label in [*labels, *[None] * (len(padded) - len(labels))]]
        first = self._ids([opening[len(self._checkpoint.tokens.prefix) :] for opening in openings])
        wanted = [row for row, label in enumerate(labels) if label is not None]
        end = self._tokenizer.eos_token_id
        written = decoder.decode(first, wanted, end=end, limit=self._max_new_tokens)
        return [
            Answer(score, decoded(self._tokenizer, opening, row) if label else None)
            for score, label, opening, row in zip(scores, labels, openings, written, strict=False)
        ]

    def _prefill(self, prepared: Sequence[torch.Tensor], cache: Cache) -> list[Score]:
        """Scores at the position after prompt and prefix; the cache goes up to there."""
        hidden = self._run(self._checkpoint.tokens.prefill, prepared, cache)
        return self._score(hidden[:, -1])

    def _run(self, ids: Sequence[int], prepared: Sequence[torch.Tensor], cache: Cache) -> torch.Tensor:
        """One pass over the same tokens and every row's image: rows × tokens × width."""
        pixels = torch.stack(list(prepared)).to(self._checkpoint.device, self._model.dtype)
        hidden: torch.Tensor = self._model.model(
            input_ids=self._ids(ids).expand(len(prepared), -1),
            pixel_values=pixels,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

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
        openings = [self._opening(label) for label in labels]
        first = self._ids([opening[len(self._checkpoint.tokens.prefix) :] for opening in openings])
        written = self._decode(cache, first)
        return [decoded(self._tokenizer, opening, tokens) for opening, tokens in zip(openings, written, strict=True)]

    def _opening(self, label: Label) -> tuple[int, ...]:
        """The ids of the sentence that an explanation under this label begins with."""
        tokens = self._checkpoint.tokens
        return (*tokens.prefix, tokens.verdict(label), *tokens.suffix)

    def _decode(self, cache: Slab, first: torch.Tensor) -> list[list[int]]:
        end = self._tokenizer.eos_token_id
        return decode(self._model, cache, first, end=end, limit=self._max_new_tokens)

    @property
    def _length(self) -> int:
        """Tokens that the longest row takes: prompt, opening and what may follow."""
        return len(self._checkpoint.tokens.prompt) + len(self._opening("real")) + self._max_new_tokens

    def _slab(self) -> Slab:
        return Slab(self._model.config.text_config.num_hidden_layers, self._length)

    def _ids(self, ids: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(ids, device=self._checkpoint.device)
