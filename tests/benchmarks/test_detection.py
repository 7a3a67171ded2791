"""The benchmarks of detection run, compare like with like, and calculate the roofline that is published."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import detector, gpu, loops, small
from benchmarks.detector import Timed, summary
from benchmarks.pictures import Picture, pictures
from model.answer import parse
from model.checkpoint import Checkpoint, image_token_count, load
from model.decode import to_rgb
from model.engines import decoding
from model.engines.transformers import TransformersEngine

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load(small.FOLDER, device="cpu")


@pytest.fixture(scope="module")
def few() -> list[Picture]:
    """Pictures the checkpoint was not trained on."""
    return list(pictures(4, 7, small.SIDE))


def test_the_small_checkpoint_has_fakevlms_token_geometry(checkpoint: Checkpoint) -> None:
    assert image_token_count(checkpoint.model.config) == 576
    assert checkpoint.tokens.prompt.count(checkpoint.model.config.image_token_id) == 576


def test_the_small_checkpoints_answers_are_right_and_end_by_themselves(
    checkpoint: Checkpoint, few: list[Picture]
) -> None:
    engine = TransformersEngine(checkpoint, max_new_tokens=loops.NEW_TOKENS)
    answers = engine.complete([engine.prepare(to_rgb(picture.jpeg)) for picture in few])
    assert answers == [picture.answer for picture in few]
    assert len({len(answer) for answer in answers}) > 1


def test_both_loops_read_the_same_labels(checkpoint: Checkpoint, few: list[Picture]) -> None:
    files, labels = [picture.jpeg for picture in few], [parse(picture.answer) for picture in few]
    assert loops.sensible(checkpoint, files) == labels
    assert loops.published(checkpoint, files) == labels


def test_the_published_loop_prefills_its_padding(checkpoint: Checkpoint, few: list[Picture]) -> None:
    widths: list[int] = []
    hook = checkpoint.model.register_forward_pre_hook(
        lambda module, inputs, named: widths.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    loops.published(checkpoint, [few[0].jpeg])
    hook.remove()
    assert widths[0] == 1024 + 575


def test_the_last_line_compares_seconds_and_labels() -> None:
    times = {"verdict": 1.0, "explained": 2.0, "sensible": 4.0, "published": 10.0}
    labels = ["real", "fake", "fake", "real"]
    results = [Timed(name, list(labels), seconds) for name, seconds in times.items()]  # type: ignore[arg-type]
    results[3].labels[0] = "unparsable"
    assert summary(results) == {
        "ratio_verdict": 10.0,
        "ratio_explained": 5.0,
        "ratio_verdict_sensible": 4.0,
        "ratio_explained_sensible": 2.0,
        "label_agreement": 0.75,
    }


def test_the_command_ends_with_that_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["detector", "--images", "2", "--batch", "2"])
    detector.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["label_agreement"] == 1.0


@pytest.mark.parametrize(
    ("batch", "explained", "bound"), [(1, False, 93), (8, True, 17.5), (64, True, 42), (320, True, 50)]
)
def test_the_roofline_is_the_calculated_one(batch: int, explained: bool, bound: float) -> None:
    assert gpu.roofline(batch, explained, prompt=587) == pytest.approx(bound, rel=0.03)


def test_the_gpu_harness_runs_whole_explanations(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--batches", "1", "2", "--training-batches", "1", "--compiled", "2"]
    monkeypatch.setattr("sys.argv", ["gpu", "--small-on-cpu", *sizes])
    monkeypatch.setattr(gpu, "EXPLANATION", 3)
    monkeypatch.setattr(decoding, "BACKEND", "eager")
    assert gpu.main() == 0
    paces = json.loads(capsys.readouterr().out.splitlines()[-1])["paces"]
    assert [(pace["way"], pace["batch"]) for pace in paces] == [
        ("verdict", 1),
        ("explained", 1),
        ("verdict", 2),
        ("explained", 2),
        ("explained, compiled step", 2),
        ("LoRA training", 1),
    ]
    assert all(pace["images_per_second"] > 0 for pace in paces)


def test_without_a_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nothing was measured" in captured.err
