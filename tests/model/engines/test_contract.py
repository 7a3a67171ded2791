"""Both engines keep one contract: same labels, same scores, same texts, on the demo checkpoint.

The vllm engine runs against what a real server answered (`record` says how it was recorded), and against a live one
where TELLTALE_TEST_VLLM_URL names it: one that serves the demo checkpoint in float32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from model.checkpoint import DEMO, DEMO_FOLDER
from model.detector import Detection, Detector
from model.engines.engine import Engine
from tests.model.engines import album
from tests.model.engines.replay import Replay, serving

torch.set_num_threads(1)

LIVE = os.environ.get("TELLTALE_TEST_VLLM_URL")
TOLERANCE = 0.02  # of p_fake


def replayed() -> Iterator[Detector]:
    with serving(Replay()) as url:
        yield Detector.connect(url, DEMO)


def live() -> Iterator[Detector]:
    yield Detector.connect(str(LIVE), DEMO)


def in_process() -> Iterator[Detector]:
    yield Detector.load(DEMO, device="cpu")


@pytest.fixture(scope="module", params=[in_process, replayed, *([live] if LIVE else [])])
def detector(request: pytest.FixtureRequest) -> Iterator[Detector]:
    yield from request.param()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return album.contract()


@pytest.fixture(scope="module")
def expected(images: list[Image.Image]) -> list[Detection]:
    """What the network says of each image by itself, in this process."""
    [detector] = in_process()
    return [detector.detect([image])[0] for image in images]


def test_golden_outputs_are_reproduced(detector: Detector) -> None:
    detector.verify_golden(DEMO_FOLDER)


def test_labels_and_scores_are_the_same(detector: Detector, images, expected: list[Detection]) -> None:
    assert {detection.verdict.label for detection in expected} == {"real", "fake"}
    for ours, theirs in zip(detector.judge(images), expected, strict=True):
        assert ours.label == theirs.verdict.label
        assert ours.p_fake == pytest.approx(theirs.verdict.p_fake, abs=TOLERANCE)
        assert ours.pair_mass == pytest.approx(theirs.verdict.pair_mass, abs=TOLERANCE)
        assert (ours.model_version, ours.dtype) == ("telltale-demo", "float32")


def test_explanations_are_the_same(detector: Detector, images, expected: list[Detection]) -> None:
    assert len({detection.explanation for detection in expected}) > 4
    assert [each.explanation for each in detector.detect(images)] == [each.explanation for each in expected]


def test_only_those_that_want_it_are_explained_and_each_gets_its_own(detector: Detector, images, expected) -> None:
    """The fakes of a batch in another order."""
    backwards = detector.detect(images[::-1], lambda verdict: verdict.label == "fake")
    wanted = [each.explanation if each.verdict.label == "fake" else None for each in expected]
    assert [each.explanation for each in backwards[::-1]] == wanted


def test_what_is_said_unasked_is_the_same(detector: Detector, images, expected: list[Detection]) -> None:
    """The demo checkpoint says by itself what its score says, and then explains it in the same words."""
    said = detector.complete_prepared([detector.prepare(image) for image in images[:4]])
    assert said == [each.explanation for each in expected[:4]]


def test_no_images_no_answers(detector: Detector) -> None:
    assert detector.detect([]) == []


def test_scores_are_asked_about_once_all_are_known(detector: Detector, images) -> None:
    engine: Engine = detector._engine
    asked: list[int] = []
    answers = engine.answer([engine.prepare(image) for image in images[:4]], lambda index, _: asked.append(index))
    assert asked == [0, 1, 2, 3]
    assert [answer.text for answer in answers] == [None] * 4
