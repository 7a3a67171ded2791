"""The one place of a process that runs the detector: threads hand in images, one thread runs them in batches.

Decoding and preprocessing happen in the threads that submit, and so overlap the batch that is running. One image that
raises never takes its batch-mates with it; a batch that hangs, or a device that fails, ends the process. It knows
nothing of cases.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from PIL import Image

from model.detector import Detection, Detector, Explain

log = logging.getLogger(__name__)

EXIT_HUNG = 70  # EX_SOFTWARE of sysexits.h


class BatcherClosed(RuntimeError):
    """The batcher takes no more images: the process is shutting down."""


@dataclass
class _Waiting:
    prepared: Any
    explain: Explain
    future: Future[Detection] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


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

    `on_hang` is called, from another thread, with the limit in seconds when one batch takes longer than `hang_after_s`;
    `on_broken` with the error when the device itself failed (an illegal access, a card that fell off the bus).
    """

    def __init__(
        self,
        detector: Detector,
        *,
        max_batch: int = 8,
        max_wait_ms: float = 10,
        hang_after_s: float = 300,
        on_hang: Callable[[float], None] = exit_process,
        on_broken: Callable[[BaseException], None] = exit_broken,
    ) -> None:
        self._detector = detector
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._hang_after_s = hang_after_s
        self._on_hang = on_hang
        self._on_broken = on_broken
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
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

    def submit(self, image: Image.Image, explain: Explain = True) -> Future[Detection]:
        """Preprocess an RGB image in this thread and queue it; the future ends with its detection or its error.

        Raises BatcherClosed, and whatever preprocessing raises.
        """
        waiting = _Waiting(self._detector.prepare(image), explain)
        with self._closing:
            if self._closed:
                raise BatcherClosed("The batcher is closed.")
            self._queue.put(waiting)
        return waiting.future

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
            batch, is_last = self._fill(first)
            started = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if started:
                self._settle(started)
            if is_last:
                return

    def _fill(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """The batch that `first` begins, and whether the queue ended with it."""
        batch, deadline = [first], first.arrived + self._max_wait_s
        while len(batch) < self._max_batch:
            try:
                following = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False

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
        watchdog = threading.Timer(self._hang_after_s, self._on_hang, args=[self._hang_after_s])
        watchdog.daemon = True
        watchdog.start()
        try:
            return self._detector.detect_prepared(
                [waiting.prepared for waiting in batch], [waiting.explain for waiting in batch]
            )
        finally:
            watchdog.cancel()
