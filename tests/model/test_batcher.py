"""Threads hand in images; batches fill, errors stay with their image, hangs end the process, closing loses nothing."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import Any

import pytest
import torch
from PIL import Image

from infra.services import wait_until
from model.batcher import EXIT_HUNG, Batcher, BatcherClosed, Ran
from model.detector import Detector
from model.engines.engine import Answer, Chooser, EngineError, Score
from model.manifest import Manifest

WAIT_S = 60
NEVER_MS = 600_000  # a batch that waits so long is one that starts when it is full


class StubEngine:
    """Scores an image by its width, refuses images 13 pixels wide, breaks at 15, and waits while the gate is shut."""

    name, dtype = "stub", "float32"
    manifest = Manifest(name="stub", kind="demo", base="none")

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.prepared_in: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def prepare(self, image: Image.Image) -> int:
        self.prepared_in.add(threading.current_thread().name)
        if image.width == 14:
            raise ValueError("cannot be prepared")
        return image.width

    def answer(self, prepared: Sequence[int], choose: Chooser) -> list[Answer]:
        self.gate.wait(timeout=WAIT_S)
        self.batches.append(list(prepared))
        if 15 in prepared:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if 13 in prepared:
            raise EngineError("13 is unlucky")
        scores = [Score(real=0.0, fake=float(width), pair_mass=1.0) for width in prepared]
        return [Answer(score, choose(index, score)) for index, score in enumerate(scores)]


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def batcher(engine: StubEngine) -> Iterator[Batcher]:
    """Runs four images at a time, however long the machine takes to bring them."""
    with Batcher(Detector(engine), max_batch=4, max_wait_ms=NEVER_MS) as made:
        yield made
        engine.gate.set()


def image(width: int) -> Image.Image:
    return Image.new("RGB", (width, 1))


def widths(futures: Sequence[Any]) -> list[float]:
    return [future.result(timeout=WAIT_S).verdict.logit for future in futures]


def test_images_that_come_together_run_together(engine: StubEngine, batcher: Batcher) -> None:
    assert widths([batcher.submit(image(width)) for width in (1, 2, 3, 4)]) == [1, 2, 3, 4]
    assert engine.batches == [[1, 2, 3, 4]]


def test_what_ran_is_told_of_with_its_times(engine: StubEngine) -> None:
    told: list[Ran] = []
    with Batcher(Detector(engine), max_batch=2, max_wait_ms=NEVER_MS, on_ran=told.append) as batcher:
        widths([batcher.submit(image(width), explain=False) for width in (1, 2)])
        widths([batcher.submit(image(width)) for width in (3, 4)])
        for future in [batcher.submit(image(13)) for _ in range(2)]:
            with pytest.raises(EngineError):
                future.result(timeout=WAIT_S)
    assert [ran.images for ran in told] == [2, 2]
    assert [ran.explain_s is None for ran in told] == [True, False]
    assert all(0 <= ran.score_s < WAIT_S for ran in told)


def test_a_full_batch_does_not_wait(engine: StubEngine) -> None:
    with Batcher(Detector(engine), max_batch=2, max_wait_ms=NEVER_MS) as batcher:
        assert widths([batcher.submit(image(width)) for width in (1, 2)]) == [1, 2]


def test_a_lone_image_waits_no_longer_than_it_must(engine: StubEngine) -> None:
    with Batcher(Detector(engine), max_batch=4, max_wait_ms=200) as batcher:
        began = time.monotonic()
        assert widths([batcher.submit(image(5))]) == [5]
        assert 0.15 < time.monotonic() - began < WAIT_S
    assert engine.batches == [[5]]


def test_what_came_while_a_batch_ran_is_taken_at_once_up_to_the_limit(engine: StubEngine) -> None:
    with Batcher(Detector(engine), max_batch=4, max_wait_ms=0) as batcher:
        engine.gate.clear()
        first = batcher.submit(image(1))
        wait_until(first.running, "the first batch")
        later = [batcher.submit(image(width)) for width in range(2, 12)]
        engine.gate.set()
        assert widths([first, *later]) == list(range(1, 12))
    assert [len(batch) for batch in engine.batches] == [1, 4, 4, 2]


def test_results_go_to_whoever_submitted(batcher: Batcher) -> None:
    order = [7, 3, 9, 1, 30, 20, 5, 5, 2, 11] * 4
    with ThreadPoolExecutor(8) as threads:
        futures = list(threads.map(lambda width: batcher.submit(image(width)), order))
    assert widths(futures) == order


def test_the_wish_for_text_goes_with_its_image(batcher: Batcher) -> None:
    wishes = [True, False, lambda verdict: verdict.logit > 5, lambda verdict: verdict.logit > 5]
    futures = [batcher.submit(image(width), wish) for width, wish in zip((1, 2, 3, 9), wishes, strict=True)]
    assert [future.result(timeout=WAIT_S).explanation for future in futures] == ["fake", None, None, "fake"]


def test_a_bad_image_does_not_fail_its_batch_mates(engine: StubEngine, batcher: Batcher) -> None:
    futures = [batcher.submit(image(width)) for width in (1, 13, 3, 4)]
    assert widths([futures[0], futures[2], futures[3]]) == [1, 3, 4]
    with pytest.raises(EngineError, match="unlucky"):
        futures[1].result(timeout=WAIT_S)
    assert engine.batches == [[1, 13, 3, 4], [1], [13], [3], [4]]
    assert widths([batcher.submit(image(width)) for width in (5, 6, 7, 8)]) == [5, 6, 7, 8]


def test_a_wish_that_raises_fails_only_its_own_image(batcher: Batcher) -> None:
    wishes = [True, lambda verdict: verdict.nonsense, True, True]
    futures = [batcher.submit(image(width), wish) for width, wish in zip((1, 2, 3, 4), wishes, strict=True)]
    assert widths([futures[0], *futures[2:]]) == [1, 3, 4]
    with pytest.raises(AttributeError, match="nonsense"):
        futures[1].result(timeout=WAIT_S)


def test_preparing_happens_and_fails_in_the_thread_that_submits(engine: StubEngine, batcher: Batcher) -> None:
    with pytest.raises(ValueError, match="cannot be prepared"):
        batcher.submit(image(14))
    assert engine.prepared_in == {threading.current_thread().name}


def test_a_hang_is_reported_while_it_lasts(engine: StubEngine) -> None:
    hung: list[float] = []
    reported = threading.Event()

    def on_hang(seconds: float) -> None:
        hung.append(seconds)
        reported.set()

    with Batcher(Detector(engine), max_wait_ms=0, hang_after_s=0.1, on_hang=on_hang) as batcher:
        engine.gate.clear()
        future = batcher.submit(image(1))
        assert reported.wait(timeout=WAIT_S / 2)
        assert not future.done()
        engine.gate.set()
        assert widths([future]) == [1]
        time.sleep(0.2)
    assert hung == [0.1]


def test_a_batch_in_time_is_no_hang(engine: StubEngine) -> None:
    hung: list[float] = []
    with Batcher(Detector(engine), max_wait_ms=0, hang_after_s=10 * WAIT_S, on_hang=hung.append) as batcher:
        assert widths([batcher.submit(image(1))]) == [1]
        wait_until(lambda: not watchdogs(hung), "the batch's watchdog, which should be gone,")
    assert hung == []


def watchdogs(reports: list[float]) -> list[threading.Timer]:
    """Those that would report to this list, and have not been called off."""
    timers = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
    return [timer for timer in timers if timer.function == reports.append]


def test_a_hang_ends_the_process(
    engine: StubEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    statuses: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(os, "_exit", statuses.put)
    with Batcher(Detector(engine), max_wait_ms=0, hang_after_s=0.1) as batcher:
        engine.gate.clear()
        batcher.submit(image(1))
        assert statuses.get(timeout=WAIT_S / 2) == EXIT_HUNG
        assert "the device hangs" in caplog.text
        engine.gate.set()


def test_closing_finishes_what_is_queued(engine: StubEngine) -> None:
    batcher = Batcher(Detector(engine), max_batch=2, max_wait_ms=NEVER_MS)
    engine.gate.clear()
    futures = [batcher.submit(image(width)) for width in (1, 2, 3, 4, 5)]
    threading.Timer(0.1, engine.gate.set).start()
    batcher.close()
    assert all(future.done() for future in futures)
    assert widths(futures) == [1, 2, 3, 4, 5]
    with pytest.raises(BatcherClosed):
        batcher.submit(image(6))
    batcher.close()


def test_closing_can_cancel_what_has_not_begun(engine: StubEngine) -> None:
    batcher = Batcher(Detector(engine), max_batch=1, max_wait_ms=0)
    engine.gate.clear()
    begun, *queued = [batcher.submit(image(width)) for width in (1, 2, 3)]
    wait_until(begun.running, "the first image")
    closing = threading.Thread(target=batcher.close, kwargs={"cancel": True})
    closing.start()
    assert not wait(queued, timeout=WAIT_S / 2).not_done
    assert not begun.done()
    engine.gate.set()
    closing.join()
    assert widths([begun]) == [1]
    for future in queued:
        with pytest.raises(CancelledError):
            future.result()
    assert engine.batches == [[1]]


def test_a_cancelled_image_is_not_run(engine: StubEngine, batcher: Batcher) -> None:
    futures = [batcher.submit(image(width)) for width in (1, 2, 3)]
    assert futures[1].cancel()
    futures.append(batcher.submit(image(4)))
    assert widths([futures[0], *futures[2:]]) == [1, 3, 4]
    assert engine.batches == [[1, 3, 4]]


def test_a_device_that_fails_is_not_asked_again(engine: StubEngine) -> None:
    """Whatever it is given next would fail too: the process ends instead, and whoever supervises it starts another."""
    broken: list[BaseException] = []
    with Batcher(Detector(engine), max_batch=2, max_wait_ms=NEVER_MS, on_broken=broken.append) as batcher:
        futures = [batcher.submit(Image.new("RGB", (width, 8)), explain=False) for width in (15, 20)]
        for future in futures:
            with pytest.raises(torch.AcceleratorError):
                future.result(timeout=WAIT_S)
    assert len(broken) == 1
    assert engine.batches == [[15, 20]]
