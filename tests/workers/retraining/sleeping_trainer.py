"""The retraining worker, whose trainer does nothing, for as long as it may. For worker processes only."""

from __future__ import annotations

import sys
from pathlib import Path

from workers.retraining import training
from workers.retraining.__main__ import main
from workers.retraining.child import tethered
from workers.retraining.stages import CONFIG, Stages


def _sleep(config: Path, how: str) -> list[str]:
    """Two processes, one below the other, as accelerate has them; named as the trainer is."""
    inner = tethered([sys.executable, "-c", "import time; time.sleep(600)", "model.finetune", str(config)])
    return [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *inner]


def _prepare(self: Stages, name: str) -> None:
    (self.folder / CONFIG).touch()


training.command = _sleep
Stages._step = _prepare  # type: ignore[method-assign]
main()
