"""The shipped demo checkpoint: what its card says is what it does, on images of photos it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from model import manifest as manifests
from model.decode import read_header
from model.demo import evaluate, photos, samples
from model.demo.__main__ import main
from model.demo.evaluate import CHECKPOINT, HELDOUT, Scored
from model.detector import Detector

TOLERANCE = 0.01  # another CPU sums in another order, and an image or two lie on the boundary


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(CHECKPOINT, device="cpu")


def test_the_card_and_the_manifest_say_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 0
    printed = capsys.readouterr().out.splitlines()
    measured = json.loads(printed[-1])
    promised = manifests.read(CHECKPOINT).metrics
    assert (measured["images"], measured["photos"]) == (promised["images"], promised["photos"])
    for name in ("accuracy", "auc", "reals", "ece"):
        assert measured[name] == pytest.approx(promised[name], abs=TOLERANCE), name
    card = (CHECKPOINT / "README.md").read_text()
    table = [line for line in card.splitlines() if line.startswith("| accuracy")]
    assert float(table[0].split("|")[3]) == pytest.approx(measured["accuracy"], abs=TOLERANCE)
    assert "not FakeVLM" in card


def test_it_reaches_its_targets() -> None:
    metrics = manifests.read(CHECKPOINT).metrics
    assert metrics["auc"] >= 0.95
    assert metrics["accuracy"] >= 0.88
    assert metrics["reals"] >= 0.88


def test_it_reproduces_its_golden_outputs(detector: Detector) -> None:
    assert len(detector.manifest.golden) >= 4
    detector.verify_golden(CHECKPOINT)


def test_it_says_that_it_is_a_demo(detector: Detector) -> None:
    assert detector.manifest.is_demo
    assert detector.manifest.calibration.method == "platt"


def test_shipped_images_are_of_held_out_photos_only() -> None:
    heldout = {record["photo"] for record in json.loads((HELDOUT / "records.json").read_text())}
    shown = {entry["photo"] for entry in json.loads((samples.FOLDER / samples.INDEX).read_text())["samples"]}
    assert len(heldout) >= 25
    assert shown <= heldout
    trained = _credited("Train") | _credited("Validation")
    assert len(trained) > 100
    assert not heldout & trained
    assert heldout <= _credited("Test")
    sides = photos.split(sorted(heldout | trained))
    assert {sides[name] for name in heldout} == {"test"}


def test_every_shipped_photo_is_credited_in_the_notice() -> None:
    notice = (Path(__file__).parents[2] / "NOTICE").read_text()
    assert all(f"- {name}: " in notice for name in _credited("Test"))


def test_what_is_shipped_stays_small() -> None:
    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 6e6
    assert size(HELDOUT) + size(samples.FOLDER) <= 3e6


def test_samples_are_mixed_in_kind_and_format() -> None:
    listed = json.loads((samples.FOLDER / samples.INDEX).read_text())["samples"]
    assert {entry["label"] for entry in listed} == {"real", "fake"}
    formats = {read_header(samples.FOLDER / entry["file"]).format for entry in listed}
    assert formats == {"JPEG", "PNG", "WEBP"}
    assert all(entry["author"] and entry["licence"] for entry in listed)


# --- the measures ----------------------------------------------------------------------------------------------------


def scored(p_fake: list[float], fake: list[bool], photo_names: list[str]) -> Scored:
    p = np.array(p_fake)
    artifacts = tuple("grid" if each else None for each in fake)
    return Scored(p, np.log(p / (1 - p)), np.array(fake), np.array(photo_names), artifacts)


def test_auc_counts_pairs_and_ties() -> None:
    assert evaluate.auc(scored([0.9, 0.4, 0.4, 0.1], [True, True, False, False], ["a"] * 4)) == pytest.approx(0.875)


def test_calibration_error_of_a_certain_and_always_wrong_model_is_nearly_one() -> None:
    assert evaluate.calibration_error(scored([0.99, 0.01], [False, True], ["a", "b"])) == pytest.approx(0.99)


def test_intervals_are_over_photos_not_images() -> None:
    """Two hundred images of two photos, one photo all right and one all wrong, are two observations."""
    right, wrong = [0.9] * 50 + [0.1] * 50, [0.1] * 50 + [0.9] * 50
    measured = evaluate.measure(scored(right + wrong, ([True] * 50 + [False] * 50) * 2, ["a"] * 100 + ["b"] * 100))
    assert (measured[0].name, measured[0].low, measured[0].high) == ("accuracy", 0, 1)


def _credited(side: str) -> set[str]:
    section = (CHECKPOINT / "README.md").read_text().split(f"### {side}\n")[1].split("###")[0]
    return {line[2:].split(":")[0] for line in section.splitlines() if line.startswith("- ")}
