"""The screening worker, killed while a new version is on its network and not yet proven. For worker processes only."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from model.detector import Detector
from model.engines.engine import Successor
from workers.celery_app import app

__all__ = ["app"]


def _die(self: Detector, successor: Successor, golden: Path) -> Detector:
    if "peft" not in sys.modules:
        raise AssertionError("peft is only loaded now, and a batch waits for it")
    successor.take_over()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


Detector.succeeded_by = _die  # type: ignore[method-assign]
