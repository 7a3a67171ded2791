"""The screening worker, with images that do to it what broken drivers and broken images do.

A plain magenta image kills the process in the middle of its batch; a plain cyan one hangs the call. A plain yellow one
takes until the worker is told to stop, and whichever of them comes after it longer than the worker is left. Everything
else is judged as always. Importing this changes the detector: for worker processes only.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from celery.signals import worker_shutting_down

from model.detector import Detection, Detector, Explain
from moderation import screening
from moderation.screening import Job, Reading
from tests.e2e.processes import COLOURS
from workers.celery_app import app
from workers.departure import departure

__all__ = ["app"]

LONG_S = 3600
_judge, _finish, _leave = Detector.detect_prepared, screening.finish, departure.leave
_told_to_stop, _finished_since = threading.Event(), threading.Event()
_earlier: list[object] = []


def _deed(prepared: torch.Tensor) -> str | None:
    """What a preprocessed image does to us; None for any that is not one plain colour of the three."""
    channels = prepared.reshape(-1, 3, prepared.shape[-2] * prepared.shape[-1])[0].float()
    if channels.std(dim=1).max() > 1e-3:
        return None
    bright = tuple(255 if value > 0 else 0 for value in channels.mean(dim=1).tolist())
    return {colour: deed for deed, colour in COLOURS.items()}.get(bright)


def _misbehave(self: Detector, prepared: Sequence[Any], explain: Explain | Sequence[Explain] = True) -> list[Detection]:
    deeds = {_deed(one) for one in prepared}
    if "kills" in deeds:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hangs" in deeds or ("takes until the end" in deeds and _earlier):
        time.sleep(LONG_S)
    if "takes until the end" in deeds:
        _earlier.append(deeds)
        _told_to_stop.wait()
    return _judge(self, prepared, explain)


def _finish_and_say(job: Job, reading: Reading, model_version_id: Any) -> None:
    _finish(job, reading, model_version_id)
    if _told_to_stop.is_set():
        _finished_since.set()


def _leave_when_one_is_finished() -> None:
    """For on a slow machine that may take longer than a worker that is told to stop has."""
    _finished_since.wait(LONG_S)
    _leave()


@worker_shutting_down.connect
def _note(**_: object) -> None:
    _told_to_stop.set()


Detector.detect_prepared = _misbehave  # type: ignore[method-assign]
screening.finish = _finish_and_say
departure._patience_s = 1
departure.leave = _leave_when_one_is_finished  # type: ignore[method-assign]
