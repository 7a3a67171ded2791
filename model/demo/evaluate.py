"""Measuring the demo checkpoint on the shipped held-out crops: the numbers of its card, again, anywhere.

Images of one photo are alike, so every interval comes from resampling photos, not images. Runs on what the service
runs on: the checkpoint through `Detector`; no recipe, no scikit-learn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.decode import to_rgb
from model.detector import Detector

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "checkpoint"
HELDOUT = FOLDER / "heldout"

REAL = 1  # FakeClue's label
RESAMPLES = 1000
BINS = 10
BATCH = 32

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """One entry per image: calibrated p_fake, raw logit, whether it is fake, its photo and artifact (None: real)."""

    p_fake: Numbers
    logit: Numbers
    fake: Flags
    photos: NDArray[np.str_]
    artifacts: tuple[str | None, ...]

    def rows(self, which: Flags | NDArray[np.int64]) -> Scored:
        chosen = np.flatnonzero(which) if which.dtype == np.bool_ else which
        return Scored(
            self.p_fake[chosen],
            self.logit[chosen],
            self.fake[chosen],
            self.photos[chosen],
            tuple(self.artifacts[row] for row in chosen),
        )


@dataclass(frozen=True)
class Line:
    """One line of the table: a measure, its value and its 95 % interval, and how many images it is over."""

    name: str
    images: int
    value: float
    low: float
    high: float


def score(detector: Detector, folder: Path) -> Scored:
    """Judge every image that `records.json` in `folder` lists."""
    records: list[dict[str, Any]] = json.loads((folder / "records.json").read_text())
    images: list[Image.Image] = [to_rgb(folder / record["image"]) for record in records]
    verdicts = [
        verdict for start in range(0, len(images), BATCH) for verdict in detector.judge(images[start : start + BATCH])
    ]
    return Scored(
        p_fake=np.array([verdict.p_fake for verdict in verdicts]),
        logit=np.array([verdict.logit for verdict in verdicts]),
        fake=np.array([record["label"] != REAL for record in records]),
        photos=np.array([record["photo"] for record in records]),
        artifacts=tuple(record["artifact"] for record in records),
    )


def accuracy(scored: Scored) -> float:
    return float(((scored.p_fake >= 0.5) == scored.fake).mean())


def auc(scored: Scored) -> float:
    """Area under the ROC curve, as the probability that a fake scores above a real image; ties count half."""
    fakes, reals = scored.logit[scored.fake], np.sort(scored.logit[~scored.fake])
    below = np.searchsorted(reals, fakes, "left") + np.searchsorted(reals, fakes, "right")
    return float(below.sum() / (2 * len(fakes) * len(reals))) if len(fakes) and len(reals) else float("nan")


def calibration_error(scored: Scored) -> float:
    """Expected calibration error of p_fake over ten equal bins (Naeini et al. 2015)."""
    bins = np.minimum((scored.p_fake * BINS).astype(int), BINS - 1)
    gaps = [
        (bins == place).mean() * abs(scored.p_fake[bins == place].mean() - scored.fake[bins == place].mean())
        for place in np.unique(bins)
    ]
    return float(sum(gaps))


def measure(scored: Scored, *, resamples: int = RESAMPLES) -> list[Line]:
    """The table: overall, reals, and recall per artifact, each with an interval over photos."""
    lines = [
        _line("accuracy", scored, accuracy, resamples),
        _line("AUC", scored, auc, resamples),
        _line("calibration error", scored, calibration_error, resamples),
        _line("reals called real", scored.rows(~scored.fake), accuracy, resamples),
    ]
    artifacts = np.array([artifact or "" for artifact in scored.artifacts])
    lines += [
        _line(f"{name} called fake", scored.rows(artifacts == name), accuracy, resamples)
        for name in sorted(set(artifacts) - {""})
    ]
    return lines


def summary(scored: Scored) -> dict[str, int | float]:
    """What the last line of `eval-demo` says, and the manifest's metrics."""
    return {
        "images": len(scored.fake),
        "photos": len(set(scored.photos)),
        "accuracy": round(accuracy(scored), 4),
        "auc": round(auc(scored), 4),
        "reals": round(accuracy(scored.rows(~scored.fake)), 4),
        "ece": round(calibration_error(scored), 4),
    }


def table(lines: Sequence[Line]) -> str:
    """Markdown, so that the model card shows what the command prints."""
    head = "| measure | images | value | 95 % interval, by photo |\n|---|---:|---:|---|\n"
    return head + "\n".join(
        f"| {line.name} | {line.images} | {line.value:.3f} | {line.low:.3f} – {line.high:.3f} |" for line in lines
    )


def _line(name: str, scored: Scored, measured: Callable[[Scored], float], resamples: int) -> Line:
    """A cluster bootstrap: photos are drawn with replacement, each with all its images. Fixed seed."""
    rng = np.random.default_rng(0)
    photos = np.unique(scored.photos)
    rows_of = [np.flatnonzero(scored.photos == photo) for photo in photos]
    values = [
        measured(scored.rows(np.concatenate([rows_of[draw] for draw in rng.integers(0, len(photos), len(photos))])))
        for _ in range(resamples)
    ]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Line(name, len(scored.fake), measured(scored), float(low), float(high))
