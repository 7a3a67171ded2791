"""What is done after every run, whatever came of it: the standing panel is measured, and what is old goes.

Found in the runs' rows, like the runs themselves, so that a worker that is killed over it leaves it to the next.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from moderation import checkpoints, model_versions
from moderation.db import transaction
from moderation.errors import TelltaleError
from moderation.estimates import Interval
from moderation.retraining import dataset, panel, retention, snapshot
from moderation.retraining.panel import LEAST_OF_CLASS, Measured
from moderation.retraining.snapshot import Example
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.tables import ModelVersion, TrainingRun
from moderation.vocabulary import Label, PanelSet
from workers.retraining import child
from workers.retraining.child import ChildFailed
from workers.retraining.watch import Stopping

log = logging.getLogger(__name__)

# Files of the run's folder that measuring.py reads and writes; images as in a run's stages.
JOB, FOUND, LOG, IMAGES = "panel.json", "panel-found.json", "panel.log", "images"


def turn(store: Storage, rules: Settings, stopping: threading.Event) -> bool:
    """Do what is due after a run, if anything is; whether there was something."""
    with transaction() as session:
        run = panel.due(session)
    if run is None:
        return False
    folder = rules.retrain_folder.resolve() / str(run.id)
    try:
        note = _measured(run.id, folder, store, stopping)
    except Stopping:
        with transaction() as session:
            panel.put_off(session, run.id)
        return True
    finally:
        shutil.rmtree(folder / IMAGES, ignore_errors=True)
    try:
        retention.clear_up(store, rules.retrain_folder)
    except TelltaleError as error:  # what is left now goes after the next run
        log.warning("not everything old was removed: %s", error.message)
    with transaction() as session:
        panel.finished(session, run.id, note)
    return True


def _measured(run_id: UUID, folder: Path, store: Storage, stopping: threading.Event) -> str | None:
    """Measure the panel; why not, where it cannot be. Raises Stopping."""
    with transaction() as session:
        champion, divided = model_versions.champion(session), panel.divided_last(session)
    if champion is None:
        return "No version is champion, so there was nothing to measure."
    try:
        found = _on_images(folder, store, champion, divided, stopping) if divided else []
    except (ChildFailed, TelltaleError, OSError) as error:
        log.warning("the standing panel was not measured: %s", error)
        return f"The champion could not be measured: {error}"
    with transaction() as session:
        found.append(panel.audited(session, champion.id, datetime.now(UTC)))
        rows = panel.keep(session, run_id, champion, found)
    for row in rows:
        if row.drifted:
            log.warning("the champion has got worse: %s %+.3f", row.measured.value, row.change)
    return None


def _on_images(
    folder: Path, store: Storage, champion: ModelVersion, divided: TrainingRun, stopping: threading.Event
) -> list[Measured]:
    def watch(_: int = 0) -> None:
        if stopping.is_set():
            raise Stopping

    folder.mkdir(parents=True, exist_ok=True)
    assert divided.snapshot_digest is not None and divided.configuration is not None
    # By the run's own share: by another, what it has just trained on could be in the holdout.
    chosen = panel.frozen(snapshot.read(store, divided.snapshot_digest), divided.configuration["holdout_share"])
    there = dataset.fetched(store, chosen, lambda each: folder / _name(each), watch)
    if not there:
        return []
    before, job = _job(there, champion, store)
    (folder / JOB).write_text(json.dumps(job) + "\n")
    child.run([sys.executable, "-m", "workers.retraining.measuring", str(folder)], folder / LOG, watch)
    found: dict[str, Any] = json.loads((folder / FOUND).read_text(), parse_constant=lambda name: None)
    return [_of_set(PanelSet(measured), each, before.get(measured)) for measured, each in found.items()]


def _job(there: list[Example], champion: ModelVersion, store: Storage) -> tuple[dict[str, UUID], dict[str, Any]]:
    """Which earlier measurements are compared with, and the file that measuring.py reads."""
    with transaction() as session:
        references = {
            measured.value: row
            for measured in PanelSet
            if measured is not PanelSet.AUDITS and (row := panel.reference(session, measured, len(there)))
        }
        before = {measured: row.scores for measured, row in references.items()}
    digest = checkpoints.digest_of(champion.checkpoint)
    place = str(checkpoints.fetch(store, digest)) if digest else champion.checkpoint
    images = [
        {"image": _name(each), "sha256": each.sha256, "group": each.group, "fake": each.label is Label.FAKE}
        for each in there
    ]
    job = {"champion": {"checkpoint": place, "manifest": champion.manifest}, "images": images, "before": before}
    return {measured: row.id for measured, row in references.items()}, job


def _of_set(measured: PanelSet, found: dict[str, Any], reference: UUID | None) -> Measured:
    count, fewest = len(found["scores"]), found["of_class"]
    if fewest < LEAST_OF_CLASS:
        note = f"{fewest} images of the rarer class are too few: {LEAST_OF_CLASS} are needed."
        return Measured(measured, count, None, note=note)
    change = found.get("change")
    return Measured(
        measured,
        count,
        _interval(found["value"]),
        auc=found["auc"],
        reference=reference,
        before=found.get("before"),
        change=_interval(change) if change and change[0] is not None else None,
        scores=found["scores"],
    )


def _interval(three: list[float]) -> Interval:
    return Interval(*three)


def _name(example: Example) -> str:
    return f"{IMAGES}/{example.sha256}{dataset.suffix(example)}"
