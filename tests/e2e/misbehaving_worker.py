"""The screening worker, with images that do to it what broken drivers and broken images do.

A plain magenta image kills the process in the middle of its batch; a plain cyan one hangs the call; a plain yellow one
takes six seconds. Everything else is judged as always. Importing this changes the detector: for worker processes only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch

from model.detector import Detection, Detector, Explain
from tests.e2e.processes import COLOURS
from workers.celery_app import app

__all__ = ["app"]

SLOW_S = 6
_judge = Detector.detect_prepared


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
    if "hangs" in deeds:
        time.sleep(3600)
    if "is slow" in deeds:
        time.sleep(SLOW_S)
    return _judge(self, prepared, explain)


Detector.detect_prepared = _misbehave  # type: ignore[method-assign]
