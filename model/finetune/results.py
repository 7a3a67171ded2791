"""What a run leaves beside its weights: golden outputs, and how well what was written judges.

The checkpoint is loaded as any user would load it, so that it is the files that are measured, not the network in
memory. It knows nothing of how they were trained.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score

from model import manifest as manifests
from model.decode import to_rgb
from model.detector import Detector, make_goldens
from model.finetune.records import Records, Row
from model.manifest import Golden, Manifest
from model.prompt import Label

log = logging.getLogger(__name__)

GOLDEN_FOLDER = "golden"
# Golden images per label, of so many that are tried: those too near the boundary are left out.
GOLDENS, TRIED = 4, 16


def complete(folder: Path, training: Records, validation: Records | None, batch_size: int) -> Manifest:
    """Make golden outputs on validation (else training) images, measure validation, and write both down.

    Raises what `Detector.load` raises: what was written must load.
    """
    detector = Detector.load(folder)
    metrics = detector.manifest.metrics
    if validation is not None:
        metrics = metrics | measure(detector, validation, batch_size)
    golden = goldens(detector, folder, (validation or training).rows)
    manifest = manifests.read(folder).model_copy(update={"golden": golden, "metrics": metrics})
    manifest.write(folder)
    return manifest


def measure(detector: Detector, records: Records, batch_size: int) -> dict[str, Any]:
    """Accuracy and area under the ROC curve of the verdict's score, fake being positive.

    The curve needs both labels; where one is missing, so is the area.
    """
    rows = records.rows
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    verdicts = [verdict for batch in batches for verdict in detector.judge([to_rgb(row.image) for row in batch])]
    right = sum(verdict.label == row.label for verdict, row in zip(verdicts, rows, strict=True))
    fake = [row.label == "fake" for row in rows]
    measured: dict[str, Any] = {"validation_images": len(rows), "validation_accuracy": round(right / len(rows), 4)}
    if len(set(fake)) == 2:
        measured["validation_auc"] = round(float(roc_auc_score(fake, [verdict.logit for verdict in verdicts])), 4)
    return measured


def goldens(detector: Detector, folder: Path, rows: Sequence[Row]) -> tuple[Golden, ...]:
    """Golden outputs on copies of a few images of each label; none, with a warning, where no answer is clear."""
    (folder / GOLDEN_FOLDER).mkdir(exist_ok=True)
    chosen = tuple(golden for label in ("real", "fake") for golden in _clear(detector, folder, rows, label)[:GOLDENS])
    kept = {golden.image for golden in chosen}
    for image in (folder / GOLDEN_FOLDER).iterdir():
        if image.relative_to(folder).as_posix() not in kept:
            image.unlink()
    if not chosen:
        log.warning("No answer is clear enough for a golden output; `telltale models register` will try the samples.")
    return chosen


def _clear(detector: Detector, folder: Path, rows: Sequence[Row], label: Label) -> tuple[Golden, ...]:
    tried = [row for row in rows if row.label == label][:TRIED]
    copies = [_copied(row.image, folder / GOLDEN_FOLDER / f"{label}-{n}") for n, row in enumerate(tried)]
    try:
        return make_goldens(detector, folder, copies) if copies else ()
    except ValueError:
        return ()  # every one of them is too near the boundary


def _copied(image: Path, to: Path) -> Path:
    return Path(shutil.copyfile(image, to.with_suffix(image.suffix)))
