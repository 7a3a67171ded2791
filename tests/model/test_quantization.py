"""8-bit and 4-bit weights: loaded where the manifest says so, named in every verdict, never mixed with others."""

from __future__ import annotations

import json
from typing import Any

import bitsandbytes
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from infra.commands.detect import detect
from model import checkpoint as checkpoints
from model import manifest as manifests
from model.checkpoint import DEMO_FOLDER, CheckpointError, load
from model.decode import to_rgb
from model.detector import Detector, GoldenMismatch, make_goldens
from model.manifest import Manifest

KINDS = {"int8": bitsandbytes.nn.Linear8bitLt, "nf4": bitsandbytes.nn.Linear4bit}


def quantized(kind: Any, **changes: Any) -> Manifest:
    return manifests.read(DEMO_FOLDER).model_copy(update={"quantization": kind, "golden": (), **changes})


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [to_rgb(path) for path in sorted((DEMO_FOLDER / "golden").iterdir())]


@pytest.mark.parametrize("kind", KINDS)
def test_the_language_models_linear_layers_are_quantized_and_nothing_else(kind: str) -> None:
    loaded = load(DEMO_FOLDER, device="cpu", manifest=quantized(kind))
    small = {name for name, module in loaded.model.named_modules() if isinstance(module, KINDS[kind])}
    linear = {
        name
        for name, module in loaded.model.named_modules()
        if "language_model" in name and isinstance(module, torch.nn.Linear)
    }
    assert small
    assert small == linear


@pytest.mark.parametrize(("kind", "moved"), [("int8", 0.3), ("nf4", 1.0)])
def test_a_quantized_checkpoint_judges_alike_and_says_what_it_is(
    kind: str, moved: float, photos: list[Image.Image]
) -> None:
    plain = Detector.load(DEMO_FOLDER, device="cpu").judge(photos)
    verdicts = Detector.load(DEMO_FOLDER, device="cpu", manifest=quantized(kind)).judge(photos)
    assert {verdict.dtype for verdict in verdicts} == {kind}
    assert [verdict.label for verdict in verdicts] == [verdict.label for verdict in plain]
    changes = [abs(ours.logit - theirs.logit) for ours, theirs in zip(verdicts, plain, strict=True)]
    assert 0 < max(changes) < moved


def test_an_image_is_judged_in_four_bits_and_the_line_says_so() -> None:
    image = str(sorted((DEMO_FOLDER / "golden").iterdir())[0])
    asked = [image, "--checkpoint", "demo", "--quantization", "nf4", "--no-explain", "--json"]
    result = CliRunner().invoke(detect, asked)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["model_version"], found["dtype"]) == ("telltale-demo-nf4", "nf4")


def test_golden_outputs_of_a_quantized_checkpoint_hold_for_it_alone() -> None:
    plain = manifests.read(DEMO_FOLDER)
    images = sorted((DEMO_FOLDER / "golden").iterdir())
    detector = Detector.load(DEMO_FOLDER, device="cpu", manifest=quantized("nf4"))
    goldens = make_goldens(detector, DEMO_FOLDER, images)
    proven = Detector.load(DEMO_FOLDER, device="cpu", manifest=quantized("nf4", golden=goldens))
    proven.verify_golden(DEMO_FOLDER)
    mixed = Detector.load(DEMO_FOLDER, device="cpu", manifest=quantized("nf4", golden=plain.golden))
    with pytest.raises(GoldenMismatch, match="were made in float32, this is nf4"):
        mixed.verify_golden(DEMO_FOLDER)
    other = Detector.load(DEMO_FOLDER, device="cpu", manifest=plain.model_copy(update={"golden": goldens}))
    with pytest.raises(GoldenMismatch, match="were made in nf4, this is float32"):
        other.verify_golden(DEMO_FOLDER)


def test_quantization_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install '\.\[quantized\]'"):
        load(DEMO_FOLDER, device="cpu", manifest=quantized("nf4"))
