"""One network, several versions: each answers as if it had been loaded alone, and a refused one leaves no trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from safetensors.torch import load_file, save_file

from model import adapters
from model import manifest as manifests
from model.adapters import AdapterError
from model.batcher import Batcher
from model.checkpoint import DEMO_FOLDER, CheckpointError
from model.decode import to_rgb
from model.detector import Detection, Detector, DetectorLost, GoldenMismatch
from model.engines import decoding
from model.engines import transformers as engines
from model.engines.engine import OtherBase
from model.manifest import Calibration
from tests.model import adapted, tiny

Make = Callable[..., Path]
WAIT_S = 150
NEVER_MS = 600_000  # a batch that waits so long is one that starts when it is full
TOKENS = 12  # random networks write every explanation to its limit


@pytest.fixture
def images(images: list[Image.Image]) -> list[Image.Image]:
    """Fewer than elsewhere."""
    return images[:4]


@pytest.fixture
def pictures(tmp_path: Path, images: list[Image.Image]) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(images[:3]):
        image.save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path, pictures: list[Path]) -> Path:
    """A checkpoint with golden outputs, as a registered one has."""
    return adapted.prove(Path(shutil.copytree(tiny_checkpoint, tmp_path / "base")), pictures, TOKENS)


@pytest.fixture
def make(base: Path, tmp_path: Path, pictures: list[Path]) -> Make:
    def made(name: str, **options: Any) -> Path:
        return adapted.make(tmp_path / name, base, pictures, strength=0.5, max_new_tokens=TOKENS, **options)

    return made


def change_to(detector: Detector, folder: Path) -> Detector:
    """As a worker does it: got ready, then put in place and proven."""
    ready = detector.successor(folder, revision=None, manifest=manifests.read(folder))
    return detector.succeeded_by(ready, folder)


def answers(detector: Detector, images: list[Image.Image]) -> list[Detection]:
    return detector.detect(images)


def alone(folder: Path, images: list[Image.Image]) -> list[Detection]:
    return answers(Detector.load(folder, device="cpu", max_new_tokens=TOKENS), images)


def logits_of(detections: list[Detection]) -> list[float]:
    return [detection.verdict.logit for detection in detections]


def layers(detector: Detector) -> int:
    network = detector._engine._checkpoint.model  # type: ignore[attr-defined]
    return sum(isinstance(module, BaseTunerLayer) for module in network.modules())


def test_whatever_follows_whatever_answers_as_if_loaded_alone(
    base: Path, make: Make, images: list[Image.Image]
) -> None:
    """From the base to an adapter, to one of the same shape, of another rank, of other parts, and back: to the bit."""
    folders = [
        make("first"),
        make("second", seed=2),
        make("wider", seed=3, rank=8),
        make("parts", seed=4, trained=("language_model", "vision_tower", "projector")),
        make("parts again", seed=5, trained=("language_model", "vision_tower", "projector")),
        base,
        make("first again"),
    ]
    detector, seen = Detector.load(base, device="cpu", max_new_tokens=TOKENS), []
    for folder in folders:
        detector = change_to(detector, folder)
        found = answers(detector, images)
        assert found == alone(folder, images)
        assert {one.verdict.model_version for one in found} == {manifests.read(folder).name}
        seen.append([one.verdict.logit for one in found])
    assert len({tuple(logits) for logits in seen}) == len(folders) - 1, "all but the first, made again, differ"


def test_an_adapter_that_was_loaded_first_goes_too(base: Path, make: Make, images: list[Image.Image]) -> None:
    detector = change_to(Detector.load(make("first"), device="cpu", max_new_tokens=TOKENS), base)
    assert answers(detector, images) == alone(base, images)
    assert layers(detector) == 0


def test_scaling_is_the_adapters_own(base: Path, make: Make, images: list[Image.Image]) -> None:
    """Same shapes and numbers, another alpha: written into the same place it would answer with the old one's."""
    weak, strong = make("weak", alpha=4), make("strong", alpha=16)
    detector = change_to(change_to(Detector.load(base, device="cpu", max_new_tokens=TOKENS), weak), strong)
    assert answers(detector, images) == alone(strong, images) != alone(weak, images)


def test_what_was_compiled_follows_adapters_of_any_shape_night_after_night(
    base: Path, make: Make, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than torch compiles one function anew: twice here, by itself eight times. And after a refusal."""
    monkeypatch.setattr(decoding, "BACKEND", "eager")  # the inductor's graphs need a compiler and minutes
    with torch._dynamo.config.patch(recompile_limit=2):
        detector = Detector.load(base, device="cpu", max_new_tokens=TOKENS, compiled_rows=4)
        for folder in (make("one", rank=2), base):
            detector = change_to(detector, folder)
            as_if_alone(detector, folder, images)
        two = make("two", rank=3)
        manifest = manifests.read(two)
        wrong = manifest.golden[0].model_copy(update={"logit": manifest.golden[0].logit + 5})
        manifest.model_copy(update={"golden": (wrong, *manifest.golden[1:])}).write(two)
        with pytest.raises(GoldenMismatch):
            change_to(detector, two)
        as_if_alone(detector, base, images)


def as_if_alone(detector: Detector, folder: Path, images: list[Image.Image]) -> None:
    """Compiled, it writes the same and scores alike."""
    found, expected = answers(detector, images), alone(folder, images)
    assert [one.explanation for one in found] == [one.explanation for one in expected]
    assert logits_of(found) == pytest.approx(logits_of(expected), abs=1e-3)


def test_a_version_that_only_scores_otherwise(base: Path, tmp_path: Path, images: list[Image.Image]) -> None:
    """New calibration, no new weights: nothing is loaded."""
    other = Path(shutil.copytree(base, tmp_path / "recalibrated"))
    manifest = manifests.read(base).model_copy(update={"name": "recalibrated"})
    detector = Detector.load(base, device="cpu", max_new_tokens=TOKENS)
    calibrated = manifest.model_copy(update={"calibration": Calibration(method="temperature", scale=0.5)})
    ready = detector.successor(base, revision=None, manifest=calibrated)
    before = answers(detector, images)
    after = answers(detector.succeeded_by(ready, other), images)
    assert [one.verdict.logit for one in after] == [one.verdict.logit for one in before]
    assert [one.verdict.p_fake for one in after] != [one.verdict.p_fake for one in before]


@pytest.mark.parametrize("first", ["base", "same shape", "another rank"])
def test_wrong_answers_are_refused_and_leave_no_trace(
    base: Path, make: Make, images: list[Image.Image], first: str
) -> None:
    starts = {"base": lambda: base, "same shape": lambda: make("old"), "another rank": lambda: make("old", rank=8)}
    detector = Detector.load(starts[first](), device="cpu", max_new_tokens=TOKENS)
    before = answers(detector, images)
    bad = make("bad", seed=9)
    weights = {name: tensor * 1.5 for name, tensor in load_file(bad / adapters.WEIGHTS).items()}
    save_file(weights, bad / adapters.WEIGHTS, {"format": "pt"})
    with pytest.raises(GoldenMismatch, match="bad does not answer as measured"):
        change_to(detector, bad)
    assert answers(detector, images) == before
    good = make("good", seed=7)
    assert answers(change_to(detector, good), images) == alone(good, images)


def test_an_adapter_that_does_nothing_or_fits_nowhere_is_refused(
    base: Path, make: Make, images: list[Image.Image]
) -> None:
    detector = Detector.load(make("old"), device="cpu", max_new_tokens=TOKENS)
    before = answers(detector, images)
    idle, odd = make("idle"), make("odd", rank=8)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(idle / adapters.WEIGHTS).items()}
    save_file(zeros, idle / adapters.WEIGHTS, {"format": "pt"})
    misnamed = {name.replace(".layers.", ".blocks."): t for name, t in load_file(odd / adapters.WEIGHTS).items()}
    save_file(misnamed, odd / adapters.WEIGHTS, {"format": "pt"})
    for folder, reason in ((idle, "change no output"), (odd, "do not fit")):
        with pytest.raises(AdapterError, match=reason):
            change_to(detector, folder)
        assert answers(detector, images) == before


def test_what_cannot_be_read_is_refused_beforehand(base: Path, make: Make) -> None:
    detector = Detector.load(base, device="cpu", max_new_tokens=TOKENS)
    cut, bare = make("cut"), make("bare")
    (cut / adapters.WEIGHTS).write_bytes((cut / adapters.WEIGHTS).read_bytes()[:-100])
    (bare / adapters.WEIGHTS).unlink()
    for folder in (cut, bare):
        with pytest.raises(CheckpointError, match="adapter_model"):
            detector.successor(folder, revision=None, manifest=manifests.read(folder))


def test_another_base_or_precision_is_another_network(base: Path, make: Make, tmp_path: Path) -> None:
    detector = Detector.load(base, device="cpu", max_new_tokens=TOKENS)
    other = tiny.save(tmp_path / "other")
    manifests.read(other).model_copy(update={"name": "other"}).write(other)
    quantized = manifests.read(base).model_copy(update={"name": "small", "quantization": "int8"})
    for folder, manifest in ((other, manifests.read(other)), (base, quantized)):
        with pytest.raises(OtherBase, match="stands on another network"):
            detector.successor(folder, revision=None, manifest=manifest)


def test_a_base_that_was_rebuilt_in_its_place_is_another_network(base: Path, make: Make) -> None:
    detector, first = Detector.load(base, device="cpu", max_new_tokens=TOKENS), make("first")
    manifests.read(base).model_copy(update={"training": {"seed": 2}}).write(base)
    with pytest.raises(CheckpointError, match="another base"):
        detector.successor(first, revision=None, manifest=manifests.read(first))
    with pytest.raises(OtherBase):
        detector.successor(base, revision=None, manifest=manifests.read(base))


def test_a_network_that_cannot_be_put_back_is_lost(base: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise AdapterError("a bug")

    detector, bad = Detector.load(base, device="cpu", max_new_tokens=TOKENS), make("bad")
    golden = manifests.read(bad).golden
    wrong = (golden[0].model_copy(update={"logit": golden[0].logit + 5}), *golden[1:])
    manifests.read(bad).model_copy(update={"golden": wrong}).write(bad)
    monkeypatch.setattr(engines.adapters, "restore", broken)
    lost: list[BaseException] = []
    with Batcher(detector, max_wait_ms=0, on_broken=lost.append) as batcher, pytest.raises(DetectorLost):
        batcher.exchange(lambda one: change_to(one, bad)).result(timeout=WAIT_S)
    assert isinstance(lost[0], DetectorLost)


def test_a_quantized_base_keeps_its_weights(tmp_path: Path) -> None:
    """Adapters go on 4-bit layers and off again; the base answers as before."""
    photos = [to_rgb(path) for path in sorted((DEMO_FOLDER / "golden").iterdir())[:2]]
    manifest = manifests.read(DEMO_FOLDER).model_copy(update={"quantization": "nf4", "golden": ()})
    folder = adapted.make(tmp_path / "on demo", "demo")
    small = manifests.read(folder).model_copy(update={"quantization": "nf4"})
    engine = Detector.load(DEMO_FOLDER, device="cpu", manifest=manifest)._engine
    before = answers(Detector(engine), photos)
    elsewhere = answers(Detector.load(folder, device="cpu", manifest=small), photos)
    rounds = []
    for _ in range(2):
        engine = engine.successor(folder, None, small).take_over()
        here = answers(Detector(engine), photos)
        engine = engine.successor(DEMO_FOLDER, None, manifest).take_over()
        rounds.append((here, answers(Detector(engine), photos)))
    # bitsandbytes packs weights anew at a layer's first call on a CPU, for a kernel that rounds otherwise.
    for found, expected in zip([*rounds[0], *rounds[1]], [elsewhere, before] * 2, strict=True):
        assert [one.explanation for one in found] == [one.explanation for one in expected]
        assert logits_of(found) == pytest.approx(logits_of(expected), abs=0.01)
    assert logits_of(elsewhere) != pytest.approx(logits_of(before), abs=0.1)


def test_between_two_batches(base: Path, make: Make, images: list[Image.Image]) -> None:
    """Whatever was queued before is judged before, the rest after; nobody fails, nobody is judged by both."""
    folder = make("next")
    detector = Detector.load(base, device="cpu", max_new_tokens=TOKENS)
    old, new = detector.judge(images), Detector.load(folder, device="cpu", max_new_tokens=TOKENS).judge(images)
    ready = detector.successor(folder, revision=None, manifest=manifests.read(folder))
    with Batcher(detector, max_batch=3, max_wait_ms=NEVER_MS) as batcher:
        before = [batcher.submit(image, explain=False) for image in images]
        exchanged = batcher.exchange(lambda one: one.succeeded_by(ready, folder))
        after = [batcher.submit(image, explain=False) for image in images[:3]]
        exchanged.result(timeout=WAIT_S)
        for futures, expected in ((before, old), (after, new[:3])):
            verdicts = [future.result(timeout=WAIT_S).verdict for future in futures]
            assert [one.model_version for one in verdicts] == [one.model_version for one in expected]
            assert [one.logit for one in verdicts] == pytest.approx([one.logit for one in expected], abs=1e-3)


def test_a_refused_change_delays_and_changes_nothing(base: Path, make: Make, images: list[Image.Image]) -> None:
    detector = Detector.load(base, device="cpu", max_new_tokens=TOKENS)
    before = detector.judge(images)
    broken: list[BaseException] = []

    def refuse(_: Detector) -> Detector:
        raise GoldenMismatch("no")

    # As many as were judged before, in one batch: in others, rounding would make other numbers of them.
    with Batcher(detector, max_batch=len(images), max_wait_ms=NEVER_MS, on_broken=broken.append) as batcher:
        refused = batcher.exchange(refuse)
        futures = [batcher.submit(image, explain=False) for image in images]
        with pytest.raises(GoldenMismatch):
            refused.result(timeout=WAIT_S)
        assert [future.result(timeout=WAIT_S).verdict for future in futures] == before
    assert broken == []
