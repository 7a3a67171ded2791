"""The one place of a process that runs the detector: threads hand in images, one thread runs them in batches.

Decoding and preprocessing happen in the threads that submit, and so overlap the batch that is running. One image that
raises never takes its batch-mates with it; a batch that hangs, or a device that fails, ends the process. Between two
batches the detector can be exchanged. It knows nothing of cases.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from PIL import Image

from model.detector import Detection, Detector, DetectorLost, Explain, Verdict

log = logging.getLogger(__name__)

EXIT_HUNG = 70  # EX_SOFTWARE of sysexits.h


class BatcherClosed(RuntimeError):
    """The batcher takes no more images: the process is shutting down."""


@dataclass
class _Waiting:
    image: Image.Image
    prepared: Any
    prepared_by: Detector
    explain: Explain
    future: Future[Detection] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


@dataclass
class _Change:
    make: Callable[[Detector], Detector]
    watched: bool
    future: Future[Detector] = field(default_factory=Future)


# What is queued; None is its end.
_Item = _Waiting | _Change | None


@dataclass(frozen=True)
class Ran:
    """A batch that ran: seconds until the last of its images was scored, and then until the last was explained.

    `explain_s` is None where no image was. A batch that memory is too short for is run in parts, and then all but the
    last part's explaining is in `score_s`.
    """

    images: int
    score_s: float
    explain_s: float | None


class _Stopwatch:
    """Of one batch: whether an image is explained is asked when it has been scored."""

    def __init__(self) -> None:
        self._began = self._scored = time.monotonic()

    def noting(self, explain: Explain) -> Callable[[Verdict], bool]:
        """The same wish, noting when it is asked for."""

        def wish(verdict: Verdict) -> bool:
            self._scored = time.monotonic()
            return explain(verdict) if callable(explain) else explain

        return wish

    def stop(self, detections: Sequence[Detection]) -> Ran:
        explained = any(detection.explanation is not None for detection in detections)
        explain_s = time.monotonic() - self._scored if explained else None
        return Ran(len(detections), self._scored - self._began, explain_s)


def not_told(ran: Ran) -> None:
    """Nobody wants to know."""


def exit_process(seconds: float) -> None:
    """End this process at once: a hung GPU call cannot be interrupted, and whoever supervises us starts a fresh one."""
    log.critical("a batch has been running for %.0f s: the device hangs, ending this process", seconds)
    os._exit(EXIT_HUNG)


def exit_broken(error: BaseException) -> None:
    """End this process at once: after such an error every later call fails too, and would fail its image with it."""
    log.critical("the device failed, ending this process: %s", error)
    os._exit(EXIT_HUNG)


class Batcher:
    """Owns a detector. A batch starts when `max_batch` images wait, or the first has waited `max_wait_ms`.

    `on_ran` is called, in the thread that runs them, with each batch that did not fail; it must be quick. `on_hang` is
    called, from another thread, with the limit in seconds when one batch takes longer than `hang_after_s`;
    `on_broken` with the error when the device itself failed (an illegal access, a card that fell off the bus).
    """

    def __init__(
        self,
        detector: Detector,
        *,
        max_batch: int = 8,
        max_wait_ms: float = 10,
        hang_after_s: float = 300,
        on_ran: Callable[[Ran], None] = not_told,
        on_hang: Callable[[float], None] = exit_process,
        on_broken: Callable[[BaseException], None] = exit_broken,
    ) -> None:
        self._detector = detector
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._hang_after_s = hang_after_s
        self._on_ran = on_ran
        self._on_hang = on_hang
        self._on_broken = on_broken
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=error is not None)

    @property
    def detector(self) -> Detector:
        """The one that runs the batches now; to be asked what it is, not to be run."""
        return self._detector

    def submit(self, image: Image.Image, explain: Explain = True) -> Future[Detection]:
        """Preprocess an RGB image in this thread and queue it; the future ends with its detection or its error.

        Raises BatcherClosed, and whatever preprocessing raises.
        """
        detector = self._detector
        waiting = _Waiting(image, detector.prepare(image), detector, explain)
        self._put(waiting)
        return waiting.future

    def exchange(self, make: Callable[[Detector], Detector], *, watched: bool = True) -> Future[Detector]:
        """Have `make` called with the detector, between two batches; what it returns runs the batches from then on.

        Images submitted before are judged before. Where `make` raises, the detector stays, and the future ends with
        the error; only DetectorLost ends the process as a broken device does. `watched`: whether `make` must end within
        `hang_after_s` as a batch must. Raises BatcherClosed.
        """
        change = _Change(make, watched)
        self._put(change)
        return change.future

    def _put(self, item: _Waiting | _Change) -> None:
        with self._closing:
            if self._closed:
                raise BatcherClosed("The batcher is closed.")
            self._queue.put(item)

    def close(self, *, cancel: bool = False) -> None:
        """Take no more, finish what is queued (or cancel it), and return when the last batch is done."""
        with self._closing:
            if not self._closed:
                self._closed = True
                if cancel:
                    self._cancel_queued()
                self._queue.put(None)
        self._thread.join()

    def _cancel_queued(self) -> None:
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return
            if waiting is not None:
                waiting.future.cancel()
                waiting.future.set_running_or_notify_cancel()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            if isinstance(first, _Change):
                self._change(first)
                continue
            batch, is_last, change = self._fill(first)
            started = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if started:
                self._settle(started)
            if change is not None:
                self._change(change)
            if is_last:
                return

    def _fill(self, first: _Waiting) -> tuple[list[_Waiting], bool, _Change | None]:
        """The batch that `first` begins, whether the queue ended with it, and a change that cut it short."""
        batch, deadline = [first], first.arrived + self._max_wait_s
        while len(batch) < self._max_batch:
            try:
                following = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                return batch, True, None
            if isinstance(following, _Change):
                return batch, False, following
            batch.append(following)
        return batch, False, None

    def _change(self, change: _Change) -> None:
        """Take the detector that comes of it, or keep the one there is."""
        if not change.future.set_running_or_notify_cancel():
            return
        try:
            with self._watched(change.watched):
                self._detector = change.make(self._detector)
        except (DetectorLost, torch.AcceleratorError) as error:
            self._on_broken(error)
            change.future.set_exception(error)
        except Exception as error:  # noqa: BLE001  (as in `_settle`)
            change.future.set_exception(error)
        else:
            change.future.set_result(self._detector)

    def _settle(self, batch: Sequence[_Waiting]) -> None:
        """Every future of the batch gets its result or its own error: a batch that raises is run again one by one."""
        try:
            detections = self._detect(batch)
        except torch.AcceleratorError as error:
            self._on_broken(error)
            for waiting in batch:
                waiting.future.set_exception(error)
            return
        except Exception as error:  # noqa: BLE001  (whatever it is belongs to the future's owner, not to this thread)
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            log.warning("a batch of %d failed and is run one by one: %r", len(batch), error)
            for waiting in batch:
                self._settle([waiting])
            return
        for waiting, detection in zip(batch, detections, strict=True):
            waiting.future.set_result(detection)

    def _detect(self, batch: Sequence[_Waiting]) -> list[Detection]:
        stopwatch = _Stopwatch()
        with self._watched():
            detections = self._detector.detect_prepared(
                [self._prepared(waiting) for waiting in batch], [stopwatch.noting(each.explain) for each in batch]
            )
        self._on_ran(stopwatch.stop(detections))
        return detections

    def _prepared(self, waiting: _Waiting) -> Any:
        """As this detector wants it: the one it was prepared for may have been exchanged since."""
        if waiting.prepared_by is not self._detector:
            waiting.prepared, waiting.prepared_by = self._detector.prepare(waiting.image), self._detector
        return waiting.prepared

    @contextmanager
    def _watched(self, is_on: bool = True) -> Iterator[None]:
        """Report a block that takes longer than a batch may."""
        if not is_on:
            yield
            return
        watchdog = threading.Timer(self._hang_after_s, self._on_hang, args=[self._hang_after_s])
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
