"""The retraining worker, whose trainer only counts, and goes on from where it was. For worker processes only.

The real one takes ten seconds to start; what it keeps, and how it goes on, is the subject of
`tests/model/finetune/test_resume.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from workers.retraining import training
from workers.retraining.__main__ import main
from workers.retraining.child import tethered
from workers.retraining.stages import CONFIG, Stages

COUNT = """
import sys, time
from pathlib import Path

state = Path(sys.argv[-1]).with_name("counted")
first = int(state.read_text()) if state.exists() else 0
for update in range(first + 1, 10_000):
    print(f"update {update} of 10000: loss 0.5", flush=True)
    if update % 2 == 0:
        state.write_text(str(update))
    time.sleep(0.05)
"""


def _count(config: Path, how: str) -> list[str]:
    """Two processes, one below the other, as accelerate has them; named as the trainer is."""
    inner = tethered([sys.executable, "-c", COUNT, "model.finetune", str(config)])
    return [sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))", *inner]


def _prepare(self: Stages, name: str) -> None:
    (self.folder / CONFIG).touch()


training.command = _count
Stages._step = _prepare  # type: ignore[method-assign]
main()
