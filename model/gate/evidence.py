"""All that the gate looks at, gathered beforehand: the gate itself loads nothing, runs nothing and asks nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from model.checkpoint import CheckpointError
from model.detector import Detector, GoldenMismatch
from model.evaluate import judging
from model.evaluate.journal import Journal, Record
from model.evaluate.records.sample import Sample
from model.gate.comparison import Pair
from model.gate.leaks import Fingerprint
from model.manifest import Manifest, ManifestError


@dataclass(frozen=True)
class Proof:
    """Whether the challenger could be opened as any worker would, and answered as its manifest says.

    `loads` and `goldens` are complaints; None where there is none. `goldens` is not looked at where `loads` complains.
    """

    loads: str | None = None
    goldens: str | None = None


@dataclass(frozen=True)
class Speeds:
    """Images per second of both, as `speed` measures, in turns and on the same machine; the fastest of each counts.

    Other work on a machine only ever makes a run slower.
    """

    champion: Sequence[float]
    challenger: Sequence[float]


@dataclass(frozen=True)
class Evidence:
    """One challenger's case. `new` is what came since the champion, `old` what was there before; both never trained on.

    `trained` are the images that the challenger was trained on, and `holdout` all that it is judged on, for the search
    for leaks. `new` and `old` are None where the challenger could not be opened; `speeds` where none were measured.
    """

    champion: Manifest
    challenger: Manifest
    new: Pair | None
    old: Pair | None
    trained: Sequence[Fingerprint]
    holdout: Sequence[Fingerprint]
    proof: Proof
    speeds: Speeds | None = None

    @property
    def pairs(self) -> Iterator[tuple[str, Pair]]:
        yield from ((name, each) for name, each in (("new", self.new), ("old", self.old)) if each is not None)

    @property
    def first_adapter(self) -> bool:
        """Whether the challenger is an adapter, and the champion none."""
        return self.challenger.adapter is not None and self.champion.adapter is None

    @cached_property
    def all(self) -> Pair | None:
        """New and old together."""
        if self.new is None or self.old is None:
            return None
        return self.new.plus(self.old)


def prove(folder: Path) -> tuple[Proof, Detector | None]:
    """Open a challenger as a worker does; the proof, and the detector where it loads."""
    try:
        detector = Detector.load(folder)
    except (CheckpointError, ManifestError) as error:
        return Proof(loads=str(error)), None
    try:
        detector.verify_golden(folder)
    except GoldenMismatch as error:
        return Proof(goldens=str(error)), detector
    return Proof(), detector


def rows(
    detector: Detector,
    samples: Sequence[Sample],
    path: Path,
    batch_size: int = 16,
    advance: judging.Advance | None = None,
) -> list[Record]:
    """What a version says of `samples`, with explanations as they are served; what `path` has is not done again.

    Raises EngineError; what was judged until then stays in `path`.
    """
    journal = Journal(path, batch_size, [sample.id for sample in samples])
    judging.judge(detector, samples, journal, batch_size, "scored", advance or (lambda images: None))
    return journal.rows()


def speed(detector: Detector, images: Sequence[Image.Image]) -> float:
    """Verdicts per second for one batch: of the processor's time on a CPU, of the clock's where there is a GPU.

    On a CPU that others work on too, the clock says more of them than of the detector; a GPU is the detector's alone,
    and most of the time the processor only waits for it. The first batch after loading warms up, and says nothing.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    detector.judge(images)
    return len(images) / (clock() - started)
