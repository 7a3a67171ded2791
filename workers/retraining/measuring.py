"""The champion on the standing panel's images, a process by itself: `python -m workers.retraining.measuring FOLDER`.

Reads `panel.json` in the folder, and writes `panel-found.json`: what was measured of each set, and its change since an
earlier measurement, on the images that both have. It knows neither rows nor the object store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import CheckpointError
from model.decode import UndecodableImage, to_rgb
from model.detector import Detector
from model.engines.engine import EngineError
from model.evaluate import metrics
from model.evaluate.journal import Record
from model.evaluate.robustness import ALTERATIONS, Alteration
from model.evaluate.summary import outcomes_of
from model.gate import comparison
from model.manifest import Manifest, ManifestError

JOB, FOUND = "panel.json", "panel-found.json"
# What platforms do to uploads most; the published table has the first two.
ALTERED = {"holdout": None, "recompressed": "jpeg70", "blurred": "blur", "resized": "half"}
BATCH = 16
REFUSALS = (CheckpointError, EngineError, ManifestError)


def measure(folder: Path) -> None:
    """Judge every set, and hold each against what was measured of it before."""
    job = json.loads((folder / JOB).read_text())
    champion = job["champion"]
    manifest = Manifest.model_validate(champion["manifest"])
    detector = Detector.load(champion["checkpoint"], revision=manifest.revision, manifest=manifest)
    found = {
        measured: _set(list(_scores(detector, folder, job["images"], _alteration(name))), job["before"].get(measured))
        for measured, name in ALTERED.items()
    }
    partial = folder / f"{FOUND}.partial"
    partial.write_text(json.dumps(found) + "\n")
    partial.replace(folder / FOUND)


def _alteration(name: str | None) -> Alteration | None:
    return next((each for each in ALTERATIONS if each.name == name), None)


def _scores(
    detector: Detector, folder: Path, images: Sequence[Mapping[str, Any]], altered: Alteration | None
) -> Iterator[list[Any]]:
    """Of each image that can be decoded: sha256, group, whether it is fake, logit and p_fake."""
    for start in range(0, len(images), BATCH):
        some = [(each, picture) for each in images[start : start + BATCH] if (picture := _picture(folder, each))]
        pictures = [altered.apply(picture) if altered else picture for _, picture in some]
        for (each, _), verdict in zip(some, detector.judge(pictures) if pictures else (), strict=True):
            yield [each["sha256"], each["group"], each["fake"], verdict.logit, verdict.p_fake]


def _picture(folder: Path, image: Mapping[str, Any]) -> Any:
    try:
        return to_rgb(folder / image["image"])
    except UndecodableImage:
        return None


def _set(scores: list[list[Any]], before: list[list[Any]] | None) -> dict[str, Any]:
    """Balanced accuracy and AUC of one set, with intervals, and the change where there is something to compare."""
    rows = [_row(score) for score in scores]
    outcomes = outcomes_of(rows, "scored")
    found = metrics.balanced_accuracy(outcomes)
    measured: dict[str, Any] = {
        "scores": scores,
        "value": [found.value, found.low, found.high],
        "auc": metrics.area(outcomes).value,
        "of_class": min(int(outcomes.fake.sum()), int((~outcomes.fake).sum())),
    }
    return {**measured, **(_change(rows, before) if before else {})}


def _change(rows: Sequence[Record], before: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """On the images of both, by today's truth: an appeal may have changed it."""
    now = {row["id"]: row for row in rows}
    then = [{**_row(score), **_truth(now[score[0]])} for score in before if score[0] in now]
    pairs = comparison.pair(then, [now[row["id"]] for row in then])
    change = comparison.balanced(pairs)
    return {"before": change.champion, "change": [change.value, change.low, change.high], "compared": change.images}


def _truth(row: Record) -> Record:
    return {name: row[name] for name in ("label", "group")}


def _row(score: Sequence[Any]) -> Record:
    """As `model.evaluate` has rows."""
    sha256, group, fake, logit, p_fake = score
    return {
        "id": sha256,
        "sha256": sha256,
        "group": group,
        "label": "fake" if fake else "real",
        "category": "",
        "logit": logit,
        "p_fake": p_fake,
        "scored": "fake" if p_fake >= 0.5 else "real",
        "pair_mass": 1.0,
        "error": None,
    }


def main(folder: str) -> int:
    """0 when it is measured; 1, with the reason on stderr, where the champion cannot be loaded."""
    try:
        measure(Path(folder))
    except REFUSALS as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
