"""Scores come from one prefill, text from its cache, and golden outputs prove which checkpoint is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from model.checkpoint import Checkpoint, load
from model.detector import Detector, GoldenMismatch, Verdict, calibrate, make_goldens
from model.engines.engine import EngineError, MemoryShort
from model.engines.transformers import TransformersEngine
from model.manifest import Calibration, Golden, Manifest
from model.preprocess import to_pixels

WEIGHTS = "model.safetensors"


def full_logits(loaded: Checkpoint, image: Image.Image) -> torch.Tensor:
    """The network's logits after `<prompt> This is a`, by one plain forward pass."""
    with torch.inference_mode():
        outputs = loaded.model(
            input_ids=torch.tensor([loaded.tokens.prefill]), pixel_values=to_pixels(loaded.processor, [image])
        )
    return outputs.logits[0, -1]


def greedy(loaded: Checkpoint, image: Image.Image, answer: tuple[int, ...], tokens: int) -> list[int]:
    """What transformers' own `generate` continues the whole prompt with, without any cache of ours."""
    ids = torch.tensor([[*loaded.tokens.prompt, *answer]])
    generated = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=to_pixels(loaded.processor, [image]),
        do_sample=False,
        max_new_tokens=tokens,
    )
    return generated[0, ids.shape[1] :].tolist()


def test_the_score_is_that_of_the_two_words_after_the_prefix(loaded: Checkpoint, detector: Detector, images) -> None:
    for image, verdict in zip(images, detector.judge(images), strict=True):
        logits = full_logits(loaded, image)
        real, fake = logits[loaded.tokens.real].item(), logits[loaded.tokens.fake].item()
        assert verdict.logit == pytest.approx(fake - real, abs=1e-3)
        assert verdict.p_fake == pytest.approx(1 / (1 + math.exp(real - fake)), abs=1e-3)
        pair = logits.softmax(-1)[[loaded.tokens.real, loaded.tokens.fake]].sum().item()
        assert verdict.pair_mass == pytest.approx(pair, abs=1e-3)
        assert (verdict.model_version, verdict.engine, verdict.dtype) == ("tiny", "transformers", "float32")


def test_a_batch_judges_as_one_by_one(detector: Detector, images) -> None:
    together = detector.judge(images)
    alone = [detector.judge([image])[0] for image in images]
    assert len({round(verdict.logit, 2) for verdict in together}) == len(images)
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.logit == pytest.approx(theirs.logit, abs=1e-3)


def test_text_from_the_cache_is_what_generate_writes_from_the_start(
    loaded: Checkpoint, engine: TransformersEngine, images
) -> None:
    """Token for token, for a subset of a batch whose verdicts differ."""
    labels = ["real", None, "fake", None, None, "fake", "real", None]
    seen: list[list[int]] = []
    decode = engine._decode
    engine._decode = lambda cache, first: seen.extend(decode(cache, first)) or seen  # type: ignore[method-assign]
    answers = engine.answer([engine.prepare(image) for image in images], lambda index, score: labels[index])
    wanted = [index for index, label in enumerate(labels) if label]
    assert [index for index, answer in enumerate(answers) if answer.text] == wanted
    for row, generated in zip(wanted, seen, strict=True):
        tokens = loaded.tokens
        opening = (*tokens.prefix, tokens.verdict(labels[row]), *tokens.suffix)
        assert generated == greedy(loaded, images[row], opening, 12)
        assert answers[row].text.startswith(f"This is a {labels[row]} image.")
    assert len({tuple(generated) for generated in seen}) > 1


def test_an_image_is_looked_at_once(loaded: Checkpoint, detector: Detector, images) -> None:
    """Verdict and text share one pass of the vision tower for the whole batch."""
    batches: list[int] = []
    loaded.model.model.vision_tower.register_forward_hook(
        lambda module, inputs, output: batches.append(len(output.last_hidden_state))
    )
    detections = detector.detect(images)
    assert batches == [len(images)]
    assert all(detection.explanation for detection in detections)


def test_text_never_contradicts_the_label(divided: Detector, images) -> None:
    detections = divided.detect(images)
    assert {detection.verdict.label for detection in detections} == {"real", "fake"}
    for detection in detections:
        assert detection.explanation.startswith(f"This is a {detection.verdict.label} image.")
        assert (detection.verdict.p_fake >= 0.5) == (detection.verdict.label == "fake")


def test_who_is_explained_is_said_once_for_all_one_by_one_or_by_the_verdict(divided: Detector, images) -> None:
    def explained(explain: Any) -> list[bool]:
        return [detection.explanation is not None for detection in divided.detect(images, explain)]

    labels = [verdict.label for verdict in divided.judge(images)]
    each = [True, False] * 4
    assert explained(True) == [True] * 8
    assert explained(False) == [False] * 8
    assert explained(each) == each
    assert explained(lambda verdict: verdict.label == "fake") == [label == "fake" for label in labels]
    assert explained([False, lambda verdict: True] * 4) == [False, True] * 4
    with pytest.raises(ValueError, match="8 images, but 1"):
        divided.detect(images, [True])


def test_the_same_images_give_the_same_answers(detector: Detector, images) -> None:
    assert detector.detect(images) == detector.detect(images)


def test_nothing_in_nothing_out(detector: Detector) -> None:
    assert detector.detect([]) == []


def test_text_ends_at_the_end_token(loaded: Checkpoint, images) -> None:
    tokens, tokenizer = loaded.tokens, loaded.processor.tokenizer
    opening = (*tokens.prefix, tokens.fake, *tokens.suffix)
    third = greedy(loaded, images[0], opening, 3)[2]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(third)
    engine = TransformersEngine(loaded, max_new_tokens=12)
    [answer] = engine.answer([engine.prepare(images[0])], lambda index, score: "fake")
    body = greedy(loaded, images[0], opening, 3)
    kept = body[: body.index(third)]
    assert answer.text == tokenizer.decode([*opening, *kept]).strip()


def test_a_checkpoint_s_own_generation_settings_do_not_leak_in(tiny_checkpoint: Path, tmp_path: Path, images) -> None:
    import shutil

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    settings = {"do_sample": True, "temperature": 2.0, "repetition_penalty": 5.0, "max_length": 30, "eos_token_id": [7]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    plain = Detector.load(tiny_checkpoint, device="cpu", max_new_tokens=12)
    assert Detector.load(folder, device="cpu", max_new_tokens=12).detect(images) == plain.detect(images)


def test_bfloat16_scores_are_near_and_not_rounded_to_its_steps(tiny_checkpoint: Path, detector, images) -> None:
    engine = TransformersEngine(load(tiny_checkpoint, device="cpu", dtype=torch.bfloat16))
    answers = engine.answer([engine.prepare(image) for image in images], lambda index, score: None)
    assert any(torch.tensor(answer.score.fake).bfloat16().item() != answer.score.fake for answer in answers)
    verdicts = Detector(engine).judge(images)
    assert {verdict.dtype for verdict in verdicts} == {"bfloat16"}
    for ours, theirs in zip(verdicts, detector.judge(images), strict=True):
        assert ours.logit == pytest.approx(theirs.logit, abs=0.75)


def test_a_batch_too_large_for_the_memory_is_halved(divided: Detector, images, monkeypatch) -> None:
    explain = [True, False, False, True, True, True, False, False]
    expected = divided.detect(images, explain)
    ran = limit_memory(monkeypatch, to=2)
    assert divided.detect(images, explain) == [
        replace(detection, verdict=close_to(detection.verdict)) for detection in expected
    ]
    assert ran == [2, 2, 2, 2]


def test_one_image_too_large_for_the_memory_is_an_error(detector: Detector, images, monkeypatch) -> None:
    limit_memory(monkeypatch, to=0)
    with pytest.raises(MemoryShort, match="does not suffice for one image"):
        detector.judge(images[:2])


def limit_memory(monkeypatch: pytest.MonkeyPatch, to: int) -> list[int]:
    """Let batches above `to` images run out of memory; returns the sizes that did run."""
    ran: list[int] = []
    answer = TransformersEngine._answer

    def limited(self: TransformersEngine, prepared: Any, choose: Callable[..., Any]) -> Any:
        if len(prepared) > to:
            raise torch.OutOfMemoryError("CUDA out of memory")
        ran.append(len(prepared))
        return answer(self, prepared, choose)

    monkeypatch.setattr(TransformersEngine, "_answer", limited)
    return ran


def close_to(verdict: Verdict) -> Verdict:
    """Equal to a verdict whose numbers differ by rounding."""
    numbers = {name: pytest.approx(getattr(verdict, name), abs=1e-3) for name in ("p_fake", "logit", "pair_mass")}
    return replace(verdict, **numbers)


def test_a_score_that_is_not_a_number_is_an_error(loaded: Checkpoint, detector: Detector, images) -> None:
    with torch.no_grad():
        loaded.model.model.multi_modal_projector.linear_2.bias.fill_(float("nan"))
    with pytest.raises(EngineError, match="not a number"):
        detector.judge(images)


@pytest.mark.parametrize(("above", "label"), [(0.1, "fake"), (-0.1, "real")])
def test_the_label_turns_at_one_half(tiny_checkpoint: Path, detector: Detector, images, above: float, label) -> None:
    bias = above - detector.judge(images[:1])[0].logit
    manifest = detector.manifest.model_copy(update={"calibration": Calibration(method="platt", bias=bias)})
    [verdict] = Detector.load(tiny_checkpoint, device="cpu", manifest=manifest).judge(images[:1])
    assert (verdict.label, verdict.p_fake) == (label, pytest.approx(0.5 + above / 4, abs=1e-3))


def test_calibration_is_platt_s_and_never_overflows() -> None:
    platt = Calibration(method="platt", scale=0.5, bias=-1.0)
    assert calibrate(platt, 2.0) == pytest.approx(0.5)
    assert calibrate(platt, 4.0) == pytest.approx(1 / (1 + math.exp(-1)))
    assert calibrate(Calibration(), 1e4) == 1.0
    assert calibrate(Calibration(), -1e4) == 0.0


# --- golden outputs


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, images) -> Path:
    """The golden images in a folder."""
    folder = tmp_path_factory.mktemp("shelf")
    for index, image in enumerate(images[:4]):
        image.save(folder / f"{index}.png")
    return folder


def with_goldens(source: Path, goldens: tuple[Golden, ...], dtype: torch.dtype = torch.float32) -> Detector:
    manifest = Manifest(name="tiny", kind="demo", base="random weights", golden=goldens)
    return Detector.load(source, device="cpu", dtype=dtype, manifest=manifest, max_new_tokens=12)


@pytest.fixture(scope="session")
def goldens(tiny_checkpoint: Path, shelf: Path) -> tuple[Golden, ...]:
    detector = Detector.load(tiny_checkpoint, device="cpu", max_new_tokens=12)
    return make_goldens(detector, shelf, sorted(shelf.glob("*.png")))


def test_golden_outputs_are_reproduced(tiny_checkpoint: Path, goldens, shelf: Path) -> None:
    assert len(goldens) >= 2
    with_goldens(tiny_checkpoint, goldens).verify_golden(shelf)
    with_goldens(tiny_checkpoint, goldens, torch.bfloat16).verify_golden(shelf)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"logit": 99.0}, "has logit"),
        ({"label": "real"}, "is fake, was real"),
        ({"text": "This is a fake image. Other words."}, "is explained with"),
        ({"sha256": "0" * 64}, "sha256 differs"),
        ({"image": "nowhere.png"}, "is missing"),
    ],
)
def test_another_golden_output_is_refused(tiny_checkpoint: Path, goldens, shelf: Path, change, says) -> None:
    changed = (goldens[0], goldens[1].model_copy(update=change))
    with pytest.raises(GoldenMismatch, match=says):
        with_goldens(tiny_checkpoint, changed).verify_golden(shelf)


def test_a_small_drift_of_the_logit_is_refused_in_float32_only(tiny_checkpoint: Path, goldens, shelf: Path) -> None:
    drifted = (goldens[0].model_copy(update={"logit": goldens[0].logit + 0.2}),)
    with pytest.raises(GoldenMismatch, match="has logit"):
        with_goldens(tiny_checkpoint, drifted).verify_golden(shelf)
    coarse = (drifted[0].model_copy(update={"dtype": "bfloat16"}),)
    with_goldens(tiny_checkpoint, coarse).verify_golden(shelf)


@pytest.mark.parametrize("change", [{"engine": "vllm"}, {"dtype": "float16"}])
def test_texts_of_another_engine_or_dtype_are_not_compared(tiny_checkpoint: Path, goldens, shelf, change) -> None:
    other = goldens[0].model_copy(update={"text": "This is a fake image. Other words.", **change})
    with_goldens(tiny_checkpoint, (other,)).verify_golden(shelf)


def test_other_weights_are_refused(goldens, shelf: Path, tmp_path: Path) -> None:
    from tests.model import tiny

    model, processor = tiny.build(seed=1)
    from model.checkpoint import save_classic

    save_classic(model, processor, tiny.manifest(), tmp_path / "other", torch.float32)
    with pytest.raises(GoldenMismatch):
        with_goldens(tmp_path / "other", goldens).verify_golden(shelf)


def test_a_manifest_without_goldens_proves_nothing(detector: Detector, shelf: Path) -> None:
    with pytest.raises(GoldenMismatch, match="no golden outputs"):
        detector.verify_golden(shelf)


def test_goldens_are_made_in_the_batch_they_are_proven_in(
    tiny_checkpoint: Path, detector: Detector, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four images is left out; a batch of four would round otherwise than one of three."""
    paths = sorted(shelf.glob("*.png"))
    verdicts = detector.judge([Image.open(path) for path in paths])
    unclear = verdicts[0].logit
    monkeypatch.setattr("model.detector._is_clear", lambda calibration, logit: logit != unclear)
    explained: list[int] = []
    detect = Detector.detect

    def counted(self: Detector, images: list[Image.Image], explain: Any = True) -> Any:
        if explain is True:
            explained.append(len(images))
        return detect(self, images, explain)

    monkeypatch.setattr(Detector, "detect", counted)
    goldens = make_goldens(detector, shelf, paths)
    assert explained == [len(goldens)] == [3]


def test_images_near_the_boundary_are_no_goldens(tiny_checkpoint: Path, detector: Detector, shelf: Path) -> None:
    path = shelf / "0.png"
    [verdict] = detector.judge([Image.open(path)])
    manifest = load(tiny_checkpoint, device="cpu").manifest
    on_the_line = manifest.model_copy(update={"calibration": Calibration(method="platt", bias=-verdict.logit)})
    undecided = Detector.load(tiny_checkpoint, device="cpu", manifest=on_the_line, max_new_tokens=2)
    with pytest.raises(ValueError, match="too near the boundary"):
        make_goldens(undecided, shelf, [path])
