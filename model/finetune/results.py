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

import numpy as np

from model import manifest as manifests
from model.decode import UndecodableImage, to_rgb
from model.detector import Detector, Verdict, make_goldens
from model.evaluate import metrics as measures
from model.evaluate.metrics import Estimate, Outcomes
from model.finetune.records import Records, Row
from model.manifest import Calibration, Golden, Manifest
from model.prompt import Label

log = logging.getLogger(__name__)

GOLDEN_FOLDER = "golden"
# Golden images per label, of so many that are tried: those too near the boundary are left out.
GOLDENS, TRIED = 4, 16
LABELS: tuple[Label, Label] = ("real", "fake")


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


def calibrate(folder: Path, calibration: Calibration) -> Manifest:
    """Write a calibration into a checkpoint's manifest, and its golden outputs anew: their labels follow from it.

    Raises what `Detector.load` raises, and UndecodableImage.
    """
    manifest = manifests.read(folder).model_copy(update={"calibration": calibration})
    detector = Detector.load(folder, manifest=manifest)
    golden = settled(folder, clear(detector, folder, [folder / each.image for each in manifest.golden]))
    manifest = manifest.model_copy(update={"golden": golden})
    manifest.write(folder)
    return manifest


def measure(detector: Detector, records: Records, batch_size: int) -> dict[str, Any]:
    """Accuracy and area under the ROC curve of the verdict's score, fake being positive, with their 95 % intervals.

    The curve needs both labels; where one is missing, so is the area.
    """
    rows = records.rows
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    verdicts = [verdict for batch in batches for verdict in detector.judge([to_rgb(row.image) for row in batch])]
    outcomes = _outcomes(rows, verdicts)
    accuracy, area = measures.accuracy(outcomes), measures.area(outcomes)
    return {"validation_images": len(rows), **_told("validation_accuracy", accuracy), **_told("validation_auc", area)}


def _outcomes(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> Outcomes:
    return Outcomes(
        fake=np.array([row.label == "fake" for row in rows]),
        predicted=np.array([verdict.label for verdict in verdicts]),
        p_fake=np.array([verdict.p_fake for verdict in verdicts]),
        logit=np.array([verdict.logit for verdict in verdicts]),
        pair_mass=np.array([verdict.pair_mass for verdict in verdicts]),
    )


def _told(name: str, estimate: Estimate) -> dict[str, Any]:
    """A measure and its interval, to four places; nothing where it is not defined."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return {}
    return {name: round(estimate.value, 4), f"{name}_95": [round(estimate.low, 4), round(estimate.high, 4)]}


def goldens(detector: Detector, folder: Path, rows: Sequence[Row]) -> tuple[Golden, ...]:
    """Golden outputs on copies of a few images of each label; none, with a warning, where no answer is clear."""
    chosen = [golden for label in LABELS for golden in _of(detector, folder, rows, label)[:GOLDENS]]
    return settled(folder, clear(detector, folder, [folder / golden.image for golden in chosen]))


def clear(detector: Detector, folder: Path, images: Sequence[Path]) -> tuple[Golden, ...]:
    """Golden outputs on `images`, below `folder`: on those that are not too near the boundary; maybe none.

    Raises UndecodableImage.
    """
    try:
        return make_goldens(detector, folder, images) if images else ()
    except UndecodableImage:
        raise
    except ValueError:
        return ()  # every one of them is too near the boundary


def settled(folder: Path, chosen: Sequence[Golden]) -> tuple[Golden, ...]:
    """`chosen`, once no other golden image is left in `folder`; a warning where none is."""
    kept = {golden.image for golden in chosen}
    for image in (folder / GOLDEN_FOLDER).glob("*"):
        if image.relative_to(folder).as_posix() not in kept:
            image.unlink()
    if not chosen:
        shutil.rmtree(folder / GOLDEN_FOLDER, ignore_errors=True)
        log.warning("No answer is clear enough for a golden output; `telltale models register` will try the samples.")
    return tuple(chosen)


def copied(image: Path, folder: Path, name: str) -> Path:
    """A copy of `image` among the golden images of `folder`, as `name` with the image's ending."""
    (folder / GOLDEN_FOLDER).mkdir(exist_ok=True)
    return Path(shutil.copyfile(image, folder / GOLDEN_FOLDER / f"{name}{image.suffix}"))


def _of(detector: Detector, folder: Path, rows: Sequence[Row], label: Label) -> tuple[Golden, ...]:
    tried = [row for row in rows if row.label == label][:TRIED]
    copies = [copied(row.image, folder, f"{label}-{n}") for n, row in enumerate(tried)]
    return clear(detector, folder, copies)
