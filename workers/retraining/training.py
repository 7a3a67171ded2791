"""Training for a run: the command that does it, what it is given, how far it is, and going on after a kill.

The trainer is `accelerate launch` over `model.finetune`, in processes of their own. It knows files and lines of a log;
nothing of rows, and nothing of networks.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model import manifest as manifests
from model.finetune.arguments import LOGS, WORK
from model.finetune.command import launcher_options
from workers.retraining.child import tethered

# As model/finetune/trainer.py says it.
LINE = re.compile(r"update (?P<update>\d+) of (?P<updates>\d+): loss (?P<loss>[\d.]+)")
STATE = "trainer_state.json"


def command(config: Path, how: str) -> list[str]:
    """`accelerate launch … model.finetune --config CONFIG`; the processes it starts end with it, however it ends.

    `how` is as `telltale finetune --accelerate` takes it; what it is not, is refused as it is there.
    """
    trainer = tethered([sys.executable, "-u", "-m", "model.finetune", "--config", str(config)])
    options = launcher_options(how)
    return [sys.executable, "-u", "-m", "accelerate.commands.launch", *options, "--no_python", *trainer]


def is_done(output: Path) -> bool:
    """Whether the adapter in `output` is whole: the trainer removes its work last."""
    return (output / manifests.FILE_NAME).is_file() and not (output / WORK).exists()


def prepare_to_resume(output: Path) -> None:
    """Take away what a killed trainer had half written: the states that are not whole, and a result that is not."""
    if not output.exists():
        return
    for path in output.iterdir():
        if path.name not in (WORK, LOGS):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for state in (output / WORK).glob("checkpoint-*"):
        if not _is_whole(state):
            shutil.rmtree(state)


def _is_whole(state: Path) -> bool:
    """The trainer writes this file last."""
    try:
        json.loads((state / STATE).read_text())
    except (OSError, ValueError):
        return False
    return True


@dataclass
class Progress:
    """How far a trainer is, read from its log as it grows. Time left is judged by this process's own updates."""

    log: Path
    _read: int = 0
    _first: tuple[int, float] | None = None
    latest: dict[str, Any] | None = field(default=None)

    def __post_init__(self) -> None:
        """What an earlier trainer said is past."""
        self._read = self.log.stat().st_size if self.log.exists() else 0

    def news(self) -> dict[str, Any] | None:
        """`update`, `updates`, `loss` and `seconds_left` where they have changed since the last call, else None."""
        found = None
        for match in LINE.finditer(self._unread()):
            found = match
        if found is None:
            return None
        update, updates = int(found["update"]), int(found["updates"])
        left = self._left(update, updates)
        self.latest = {"update": update, "updates": updates, "loss": float(found["loss"]), "seconds_left": left}
        return self.latest

    def _unread(self) -> str:
        """Whole lines only."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(self._read)
            new, _, _ = file.read().rpartition(b"\n")
        self._read += len(new) + 1 if new else 0
        return new.decode(errors="replace")

    def _left(self, update: int, updates: int) -> int | None:
        now = time.monotonic()
        if self._first is None or update <= self._first[0]:
            self._first = (update, now)
            return None
        first, since = self._first
        return round((now - since) / (update - first) * (updates - update))
