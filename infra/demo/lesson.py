"""What the model has learned: it is asked about the same pictures before and after, and the two are put side by side.

*New* and *old* are balanced accuracies: of halftones, and of known fakes, each against the same real pictures. It knows
detectors and pictures; nothing of how the model learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich import box
from rich.table import Table

from infra.demo.halftones import Kind, Picture
from model.decode import to_rgb
from model.detector import Detector, Verdict
from model.evaluate import metrics

BATCH = 16
ROWS = {
    "new": "new type: balanced accuracy",
    "new_auc": "new type: AUC against real pictures",
    "old": "known types: balanced accuracy",
    "old_auc": "known types: AUC against real pictures",
    "reals": "real pictures called real",
}


@dataclass(frozen=True)
class Marks:
    """How well a version does; all from 0 to 1."""

    new: float
    new_auc: float
    old: float
    old_auc: float
    reals: float


def examined(detector: Detector, pictures: Sequence[Picture]) -> Marks:
    """Have a version judge these pictures, of which there must be some of every kind."""
    verdicts: list[Verdict] = []
    for start in range(0, len(pictures), BATCH):
        verdicts += detector.judge([to_rgb(picture.path) for picture in pictures[start : start + BATCH]])
    logits = np.array([verdict.logit for verdict in verdicts])
    fake = np.array([verdict.label == "fake" for verdict in verdicts])
    is_: dict[Kind, np.ndarray] = {
        kind: np.array([picture.kind == kind for picture in pictures]) for kind in ("halftone", "known", "real")
    }
    reals = float(1 - fake[is_["real"]].mean())

    def against_reals(kind: Kind) -> tuple[float, float]:
        both = is_[kind] | is_["real"]
        area = metrics.weighted_area(is_[kind][both], logits[both])(np.ones(both.sum()))
        return (float(fake[is_[kind]].mean()) + reals) / 2, area

    return Marks(*against_reals("halftone"), *against_reals("known"), reals)


def table(before: Marks, after: Marks) -> Table:
    """Both side by side, a row for each measure."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "before", "after", "change"):
        made.add_column(name, justify="left" if not name else "right")
    for name, words in ROWS.items():
        one, other = asdict(before)[name], asdict(after)[name]
        made.add_row(words, f"{one:.3f}", f"{other:.3f}", f"{other - one:+.3f}")
    return made


def summary(before: Marks, after: Marks, *, promoted: bool) -> dict[str, float | bool]:
    """For the last line."""
    found: dict[str, float | bool] = {}
    for name in ("new", "new_auc", "old", "reals"):
        found |= {f"{name}_before": round(asdict(before)[name], 4), f"{name}_after": round(asdict(after)[name], 4)}
    return {**found, "promoted": promoted}
