"""Measuring the demo checkpoint on the shipped held-out crops: the numbers of its card, again, anywhere.

Images of one photo are alike, so every interval comes from resampling photos, not images. The measures and their
intervals are `model.evaluate`'s; here is only which of them the card shows, and of which images.
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
from model.evaluate import intervals, metrics
from model.evaluate.intervals import Flags, Numbers, Statistic

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "checkpoint"
HELDOUT = FOLDER / "heldout"

REAL = 1  # FakeClue's label
BATCH = 32


@dataclass(frozen=True)
class Scored:
    """One entry per image: calibrated p_fake, raw logit, whether it is fake, its photo and artifact (None: real)."""

    p_fake: Numbers
    logit: Numbers
    fake: Flags
    photos: NDArray[np.str_]
    artifacts: tuple[str | None, ...]

    def rows(self, which: Flags) -> Scored:
        """The images that `which` marks."""
        chosen = np.flatnonzero(which)
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
    """The share of images whose calibrated score is on the right side of 0.5."""
    return _value(_accuracy, scored)


def auc(scored: Scored) -> float:
    """Area under the ROC curve of the raw logit."""
    return _value(_auc, scored)


def calibration_error(scored: Scored) -> float:
    """Expected calibration error of p_fake over ten equal bins."""
    return _value(_calibration_error, scored)


def measure(scored: Scored) -> list[Line]:
    """The table: overall, reals, and recall per artifact, each with an interval over photos."""
    lines = [
        _line("accuracy", scored, _accuracy),
        _line("AUC", scored, _auc),
        _line("calibration error", scored, _calibration_error),
        _line("reals called real", scored.rows(~scored.fake), _accuracy),
    ]
    artifacts = np.array([artifact or "" for artifact in scored.artifacts])
    lines += [
        _line(f"{name} called fake", scored.rows(artifacts == name), _accuracy)
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


def _accuracy(scored: Scored) -> Statistic:
    right = ((scored.p_fake >= 0.5) == scored.fake).astype(np.float64)
    return lambda times: intervals.mean(right, times)


def _auc(scored: Scored) -> Statistic:
    return metrics.weighted_area(scored.fake, scored.logit)


def _calibration_error(scored: Scored) -> Statistic:
    return metrics.weighted_calibration_error(scored.fake, scored.p_fake)


def _value(measured: Callable[[Scored], Statistic], scored: Scored) -> float:
    return measured(scored)(np.ones(len(scored.fake)))


def _line(name: str, scored: Scored, measured: Callable[[Scored], Statistic]) -> Line:
    """A measure of every image once, and its interval when photos are drawn, each with all its images."""
    low, high = intervals.bootstrap(measured(scored), scored.photos)
    return Line(name, len(scored.fake), _value(measured, scored), low, high)
