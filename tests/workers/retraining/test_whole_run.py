"""Whole runs on a tiny network that is really trained and judged: what they leave, and what kills change: nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from model import manifest as manifests
from moderation import model_versions
from moderation.db import transaction
from moderation.retraining import runs, snapshot
from moderation.storage import report_key
from moderation.tables import ModelVersion, Review, ReviewedSentence
from moderation.vocabulary import GateOutcome, ModelStage, RunStage, RunStatus, Split
from tests.workers.retraining.conftest import Bench, Killed, judged
from workers.retraining import evaluation, stages

pytestmark = pytest.mark.usefixtures("quick")


def test_a_run_leaves_a_version_its_numbers_and_no_image(bench: Bench, tidy: Callable[[Path], None]) -> None:
    with transaction() as session:
        for review in session.query(Review):
            session.add(ReviewedSentence(review_id=review.id, position=1, written="Marigold's sixth finger."))
    run = bench.go()
    assert (run.status, run.outcome) == (RunStatus.REJECTED, GateOutcome.REJECT), run.reason
    assert "Not met:" in run.reasons[0], "a tiny network learns nothing in seven updates"
    assert run.stage is RunStage.PROMOTE
    sides = list(bench.sides(run.id).values())
    assert len(sides) == 16 and {Split.TRAIN, Split.HOLDOUT} == set(sides)
    assert run.numbers["snapshot"] == {"examples": 16, "fresh": 16, "left_out": {}}
    assert run.numbers["download"]["shown"] > 2 * run.numbers["split"]["images"]["train fake"]
    assert {finding["rule"] for finding in run.numbers["gate"]["findings"]} >= {"clean_holdout", "new_auc", "old_auc"}
    assert run.progress is None or run.progress["update"] <= run.progress["updates"]
    with transaction() as session:
        version = session.get_one(ModelVersion, run.model_version_id)
    assert version.stage is ModelStage.CHALLENGER
    assert version.checkpoint.startswith("stored:")
    assert run.numbers["calibrate"]["thresholds"]["fake_from"] is None, "eight images show nothing"
    report = bench.store.get(report_key(run.id), max_bytes=10**7).decode()
    assert report.startswith("<!doctype html>") and run.configuration["name"] in report
    golden_images_are_ours(bench.folder(run.id) / "adapter")
    nothing_held_out_was_shown(bench.folder(run.id))
    assert {"draft.json", "train.json", "new.json", "challenger-new.jsonl"} <= speaking_of(bench, run.id, "Marigold")
    tidy(bench.folder(run.id))
    assert not speaking_of(bench, run.id, "Marigold")
    assert not {"images", "replay", stages.JOB} & {path.name for path in bench.folder(run.id).iterdir()}
    assert manifests.read(bench.folder(run.id) / "adapter").golden
    found = snapshot.read(bench.store, run.snapshot_digest or "")
    assert {each.case for each in found.examples} == {case.id for case in bench.cases}


def speaking_of(bench: Bench, run_id: UUID, word: str) -> set[str]:
    """The names of the files of a run's folder that have this word."""
    files = [path for path in bench.folder(run_id).rglob("*") if path.is_file()]
    return {path.name for path in files if word.encode() in path.read_bytes()}


def golden_images_are_ours(adapter: Path) -> None:
    """And no tenant's, whose erasure would not reach them."""
    shipped = {path.name for path in evaluation._shipped()}
    manifest = manifests.read(adapter)
    assert manifest.golden
    assert {path.name for path in (adapter / "golden").iterdir()} <= shipped


def nothing_held_out_was_shown(folder: Path) -> None:
    job = json.loads((folder / stages.JOB).read_text())
    trained, held = ({each["sha256"] for each in job[name]} for name in ("trained", "held"))
    assert trained and held and not trained & held
    shown = {record["image"] for record in json.loads((folder / "train.json").read_text())}
    assert not any(digest in name for digest in held for name in shown)


@pytest.mark.usefixtures("tidy")
@pytest.mark.timeout(400)
def test_a_run_that_is_killed_at_every_stage_ends_as_one_that_is_not(
    bench: Bench, killed_at: Callable[[RunStage | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, GateOutcome.PROMOTE)
    monkeypatch.setattr(runs, "ATTEMPTS", 100)
    run_id = bench.ask()
    seen = []
    for stage in list(RunStage)[:-1]:
        killed_at(stage)
        with pytest.raises(Killed):
            bench.go_on(run_id)
        bench.lapse(run_id)
        seen.append((bench.run_of(run_id).snapshot_digest, bench.sides(run_id)))
    killed_at(None)
    run = bench.go_on(run_id)
    assert run.status is RunStatus.PROMOTED, run.reason
    assert len({digest for digest, _ in seen}) == 1
    assert all(sides == bench.sides(run_id) for _, sides in seen[1:])
    with transaction() as session:
        champion = model_versions.champion(session)
        assert champion is not None and champion.id == run.model_version_id
        assert session.query(ModelVersion).count() == 2
    again = repeated(bench, run)
    assert bench.sides(again) == bench.sides(run_id)
    for file in ("adapter/adapter_model.safetensors", "rows/challenger-new.jsonl", "rows/champion-old.jsonl"):
        assert (bench.folder(again) / file).read_bytes() == (bench.folder(run_id) / file).read_bytes()


def repeated(bench: Bench, run: Any) -> Any:
    """The id of another run of the same snapshot, that nothing happened to."""
    again = bench.ask()
    with transaction() as session:
        row = runs.run_of(session, again)
        row.snapshot_digest, row.snapshot_key = run.snapshot_digest, run.snapshot_key
        row.configuration, row.base = run.configuration, run.base
    bench.go_on(again)
    return again
