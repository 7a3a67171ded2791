"""Decoding from a cache written in place gives what transformers' own generation gives, whoever ends when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from model import answer
from model.checkpoint import Checkpoint
from model.engines import decoding, transformers
from model.engines.decoding import Slab, decode
from model.engines.engine import Score
from model.engines.transformers import TransformersEngine
from model.preprocess import to_pixels
from model.prompt import Label

LIMIT = 12


def generated(loaded: Checkpoint, images: Sequence[Image.Image], end: int) -> list[list[int]]:
    """What `generate` writes after the bare prompt, row by row, up to and with `end`."""
    prompt = torch.tensor([loaded.tokens.prompt])
    rows = []
    for image in images:
        ids = loaded.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=to_pixels(loaded.processor, [image]),
            do_sample=False,
            max_new_tokens=LIMIT,
            eos_token_id=end,
            pad_token_id=end,
        )
        rows.append(ids[0, prompt.shape[1] :].tolist())
    return rows


def decoded(loaded: Checkpoint, images: Sequence[Image.Image], end: int) -> list[list[int]]:
    """The same by `decode`, prefilled three rows at a time."""
    prompt = torch.tensor([loaded.tokens.prompt])
    cache = Slab(loaded.model.config.text_config.num_hidden_layers, prompt.shape[1] + LIMIT)
    with torch.inference_mode():
        for start in range(0, len(images), 3):
            part = list(images[start : start + 3])
            cache.open(len(part), len(images) - start)
            loaded.model.model(
                input_ids=prompt[:, :-1].expand(len(part), -1),
                pixel_values=to_pixels(loaded.processor, part),
                past_key_values=cache,
                use_cache=True,
            )
            cache.keep(range(len(part)))
    return decode(loaded.model, cache, prompt[:, -1:].expand(len(images), -1), end=end, limit=LIMIT)


def an_end_that_comes_at_different_times(loaded: Checkpoint, images: Sequence[Image.Image]) -> int:
    """Some token that rows write at different places, and one row perhaps never."""
    rows = generated(loaded, images, end=-1)
    places = {token: [row.index(token) if token in row else LIMIT for row in rows] for row in rows for token in row}
    return max(places, key=lambda token: len(set(places[token])))


@pytest.mark.parametrize("stride", [1, 5])
def test_rows_that_end_at_different_times_are_what_generate_writes(
    loaded: Checkpoint, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    monkeypatch.setattr(decoding, "stride_on", lambda tensor: stride)
    end = an_end_that_comes_at_different_times(loaded, images)
    expected = generated(loaded, images, end)
    assert len({len(row) for row in expected}) >= 3
    assert decoded(loaded, images, end) == expected


def test_finished_rows_are_let_go(
    loaded: Checkpoint, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = an_end_that_comes_at_different_times(loaded, images)
    widths: list[int] = []
    language_model = loaded.model.model.language_model
    hook = language_model.register_forward_pre_hook(
        lambda module, inputs, named: widths.append(len(named["input_ids"])) if "input_ids" in named else None,
        with_kwargs=True,
    )
    decoded(loaded, images, end)
    hook.remove()
    steps = [widths[place] for place in range(len(widths)) if widths[place]]
    assert steps[0] == len(images)
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < len(images)


def test_only_rows_that_are_explained_are_kept(
    engine: TransformersEngine, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefilled in parts, answered as in one batch, in order."""

    def choose(index: int, score: Score) -> Label | None:
        return "fake" if index in (1, 2, 6) else None

    prepared = [engine.prepare(image) for image in images]
    whole = engine.answer(prepared, choose)
    kept: list[int] = []
    decode = engine._decode

    def watched(cache: Slab, first: torch.Tensor) -> Any:
        kept.append(cache.kept)
        return decode(cache, first)

    engine._decode = watched  # type: ignore[method-assign]
    monkeypatch.setattr(transformers, "PREFILL_ROWS", 3)
    parts = engine.answer(prepared, choose)
    assert kept == [3]
    assert [one.text for one in parts] == [one.text for one in whole]
    assert [one.text is not None for one in parts] == [index in (1, 2, 6) for index in range(len(images))]
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours.score.logit == pytest.approx(theirs.score.logit, abs=1e-3)


def test_an_answer_with_nothing_forced_is_what_generate_writes(
    loaded: Checkpoint, engine: TransformersEngine, images: list[Image.Image]
) -> None:
    tokenizer = loaded.processor.tokenizer
    written = generated(loaded, images, tokenizer.eos_token_id)
    answers = engine.complete([engine.prepare(image) for image in images])
    assert answers == [answer.decoded(tokenizer, (), row) for row in written]
    assert len(set(answers)) > 1


def test_a_compiled_step_on_a_static_cache_writes_the_same(
    loaded: Checkpoint, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced whole (no graph break), for a full batch and for one that is padded."""

    def choose(index: int, score: Score) -> Label | None:
        return None if index == 1 else "fake"

    plain = TransformersEngine(loaded, max_new_tokens=LIMIT)
    monkeypatch.setattr(decoding, "BACKEND", "eager")
    compiled = TransformersEngine(loaded, max_new_tokens=LIMIT, compiled_rows=4)
    prepared = [plain.prepare(image) for image in images]
    for batch in (prepared[:4], prepared[4:7]):
        ours, theirs = compiled.answer(batch, choose), plain.answer(batch, choose)
        assert [answer.text for answer in ours] == [answer.text for answer in theirs]
        assert [answer.score.logit for answer in ours] == pytest.approx(
            [answer.score.logit for answer in theirs], abs=1e-3
        )
    assert compiled.answer(prepared, choose)[7].text == plain.answer(prepared, choose)[7].text
