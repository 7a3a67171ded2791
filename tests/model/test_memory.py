"""How many images run at once follows from the memory that is free; larger batches run in parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from model import checkpoint as checkpoint_module
from model.checkpoint import Checkpoint, CheckpointError, load
from model.engines import decoding, transformers
from model.engines.engine import Answer, Chooser
from model.engines.transformers import MOST_ROWS, TransformersEngine, rows_that_fit
from model.manifest import Manifest

GIBIBYTE = 2**30


def fakevlm_sized() -> Checkpoint:
    """What `rows_that_fit` reads of FakeVLM in bfloat16: 32 layers, 32 heads of 128, an MLP of 11,008."""
    text = SimpleNamespace(
        num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, hidden_size=4096, intermediate_size=11008
    )
    network = SimpleNamespace(
        config=SimpleNamespace(text_config=text), dtype=torch.bfloat16, device=torch.device("cpu")
    )
    return Checkpoint(None, Manifest(name="f", kind="fakevlm", base="b"), None, network)  # type: ignore[arg-type]


# 512 KiB a token, 849 tokens a row: 425 MiB; a prefill of 16 rows takes 1.7 GiB, and their copy 6.6 GiB.
@pytest.mark.parametrize(("free", "rows"), [(8, 13), (24, 32), (64, 118), (140, MOST_ROWS), (1, 1)])
def test_rows_follow_from_free_memory(monkeypatch: pytest.MonkeyPatch, free: int, rows: int) -> None:
    monkeypatch.setattr(transformers, "free_memory", lambda device: free * GIBIBYTE)
    assert rows_that_fit(fakevlm_sized(), 849) == rows


def test_more_images_than_fit_run_in_parts(
    tiny_checkpoint: Path, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TransformersEngine(load(tiny_checkpoint, device="cpu"), max_new_tokens=12)
    monkeypatch.setattr(transformers, "rows_that_fit", lambda checkpoint, length: 3)
    parts = TransformersEngine(load(tiny_checkpoint, device="cpu"), max_new_tokens=12)
    sizes: list[int] = []
    parts._model.model.vision_tower.register_forward_pre_hook(
        lambda module, inputs, named: sizes.append(len(named.get("pixel_values", inputs[0] if inputs else ()))),
        with_kwargs=True,
    )
    prepared = [whole.prepare(image) for image in images]
    ours = parts.answer(prepared, lambda index, score: "fake" if index % 2 else None)
    assert sizes == [3, 3, 2]
    theirs = whole.answer(prepared, lambda index, score: "fake" if index % 2 else None)
    assert [answer.text for answer in ours] == [answer.text for answer in theirs]
    assert parts.complete(prepared) == whole.complete(prepared)


def test_memory_that_runs_out_once_is_not_asked_for_again(
    engine: TransformersEngine, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    answer = TransformersEngine._answer

    def limited(self: TransformersEngine, prepared: Sequence[torch.Tensor], choose: Chooser) -> list[Answer]:
        tried.append(len(prepared))
        if len(prepared) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, prepared, choose)

    monkeypatch.setattr(TransformersEngine, "_answer", limited)
    prepared = [engine.prepare(image) for image in images]
    assert len(engine.answer(prepared, lambda index, score: None)) == len(images)
    assert tried == [8, 4, 2, 2, 2, 2]
    engine.answer(prepared, lambda index, score: None)
    assert tried[6:] == [2, 2, 2, 2]


def test_what_took_the_memory_may_have_gone_after_a_while(
    engine: TransformersEngine, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training run beside the worker slows it down as long as it lasts, and not for good."""
    tried: list[int] = []
    answer = TransformersEngine._answer

    def limited(self: TransformersEngine, prepared: Sequence[torch.Tensor], choose: Chooser) -> list[Answer]:
        tried.append(len(prepared))
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, prepared, choose)

    monkeypatch.setattr(TransformersEngine, "_answer", limited)
    monkeypatch.setattr(transformers, "LESS_FOR_S", 0)
    prepared = [engine.prepare(image) for image in images]
    for _ in range(2):
        engine.answer(prepared, lambda index, score: None)
    assert tried == [8, 4, 4, 8]


def test_a_network_that_does_not_fit_says_what_to_do(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(checkpoint_module.LlavaForConditionalGeneration, "from_pretrained", too_large)
    with pytest.raises(CheckpointError, match=r"does not fit the memory of cpu .*--quantization nf4"):
        load(tiny_checkpoint, device="cpu")


def test_a_compiled_step_that_does_not_fit_is_given_up(
    loaded: Checkpoint, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = TransformersEngine(loaded, max_new_tokens=12, compiled_rows=4)
    plain = TransformersEngine(loaded, max_new_tokens=12)
    monkeypatch.setattr(engine, "_answer_compiled", too_large)
    prepared = [engine.prepare(image) for image in images[:3]]
    answers = engine.answer(prepared, lambda index, score: "fake")
    assert answers == plain.answer(prepared, lambda index, score: "fake")


def test_verdicts_alone_take_memory_for_one_prefill(
    engine: TransformersEngine, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers, "PREFILL_ROWS", 2)
    taken: list[int] = []
    grow = decoding.Slab.open

    def watched(self: decoding.Slab, rows: int, coming: int) -> None:
        grow(self, rows, coming)
        taken.append(self._rows)

    monkeypatch.setattr(decoding.Slab, "open", watched)
    prepared = [engine.prepare(image) for image in images]
    engine.answer(prepared, lambda index, score: None)
    assert taken == [2, 2, 2, 2]
    taken.clear()
    engine.answer(prepared, lambda index, score: "fake" if index == 1 else None)
    assert taken == [2, 7, 7, 7]
