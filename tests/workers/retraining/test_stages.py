"""A run from its reviews to its end: what it refuses, what it survives, and what becomes of what was trained."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DataError, OperationalError

from model.checkpoint import CheckpointError
from moderation import erasure, model_versions, originals
from moderation.db import transaction
from moderation.retraining import runs
from moderation.tables import Case, ModelVersion, Review, ReviewedSentence
from moderation.vocabulary import GateOutcome, ModelStage, RunStage, RunStatus, Split
from tests.workers.retraining.conftest import Bench, Killed, judged
from workers.retraining import child, evaluation, stages
from workers.retraining import watch as watching

pytestmark = pytest.mark.usefixtures("stubbed")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(GateOutcome.PROMOTE, RunStatus.PROMOTED), (GateOutcome.REJECT, RunStatus.REJECTED)],
)
def test_the_gate_decides_what_becomes_of_the_version(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, outcome: GateOutcome, status: RunStatus
) -> None:
    judged(monkeypatch, outcome)
    run = bench.go()
    assert (run.status, run.reasons) == (status, ["as the test says"])
    with transaction() as session:
        champion = model_versions.champion(session)
        assert champion is not None and (champion.id == run.model_version_id) == (status is RunStatus.PROMOTED)


@pytest.mark.usefixtures("tidy")
def test_the_night_after_a_promotion_starts_from_the_base_again_and_replays_what_was_learned(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an image of the replay set that has turned up in the holdout is not shown."""
    judged(monkeypatch, GateOutcome.PROMOTE)
    first = bench.go()
    bench.review(16, shade=3)
    held = next(case for case in bench.cases if bench.sides(first.id).get(case.id) is Split.HOLDOUT)
    replay = bench.rules.retrain_replay_set
    assert replay is not None and held.image is not None
    (replay.parent / "images" / "0.png").write_bytes(bench.store.get(held.image.s3_key, max_bytes=10**6))
    second = bench.go()
    assert second.status is RunStatus.PROMOTED, second.reason
    assert first.base == second.base
    old = {each: side for each, side in bench.sides(second.id).items() if each in bench.sides(first.id)}
    assert old == bench.sides(first.id), "what was on a side stays there"
    assert second.numbers["snapshot"]["fresh"] == 16
    job = json.loads((bench.folder(second.id) / stages.JOB).read_text())
    assert str(job["champion"]["manifest"]["name"]) == str(first.configuration["name"])
    assert (bench.folder(second.id) / "seen.json").exists()
    shown = (bench.folder(second.id) / "train.json").read_text()
    assert "replay/images/1.png" in shown
    assert "replay/images/0.png" not in shown


def test_a_reviewed_image_of_the_old_set_is_not_trained_on(
    bench: Bench, killed_at: Callable[[RunStage | None], None]
) -> None:
    """Whoever sends one of its images would have every run rejected: it would be trained on and measured on."""
    run_id = bench.ask()
    killed_at(RunStage.SPLIT)
    with pytest.raises(Killed):
        bench.go_on(run_id)
    known = next(case for case in bench.cases if bench.sides(run_id)[case.id] is Split.TRAIN)
    old = bench.rules.retrain_old_set
    assert old is not None and known.image is not None
    (old.parent / "images" / "0.png").write_bytes(bench.store.get(known.image.s3_key, max_bytes=10**6))
    bench.lapse(run_id)
    killed_at(RunStage.DOWNLOAD)
    with pytest.raises(Killed):
        bench.go_on(run_id)
    assert bench.run_of(run_id).numbers["download"]["in_old_set"] == 1
    job = json.loads((bench.folder(run_id) / stages.JOB).read_text())
    assert known.image.sha256 in {each["sha256"] for each in job["old"]}
    assert known.image.sha256 not in {each["sha256"] for each in job["trained"]}
    assert known.image.sha256 not in (bench.folder(run_id) / "train.json").read_text()


def test_too_few_new_reviews_and_nothing_is_trained(bench: Bench) -> None:
    bench.rules = bench.rules.model_copy(update={"retrain_min_reviews": 17})
    run = bench.go()
    assert (run.status, run.reason) == (
        RunStatus.SKIPPED,
        "16 images have been reviewed since the last run, and 17 are needed.",
    )
    assert not bench.folder(run.id).joinpath("adapter").exists()


def test_one_class_alone_is_not_trained_on(bench: Bench) -> None:
    bench.rules = bench.rules.model_copy(update={"retrain_replay_set": None, "retrain_min_reviews": 1})
    with transaction() as session:
        for case in bench.cases[::2]:  # the real ones
            session.get_one(Case, case.id).restricted = True
    run = bench.go()
    assert (run.status, run.reason) == (
        RunStatus.SKIPPED,
        "There is no real image to train on, and one class alone teaches nothing.",
    )


def test_what_is_erased_between_snapshot_and_download_is_not_trained_on(
    bench: Bench, killed_at: Callable[[RunStage | None], None]
) -> None:
    """Also where it had been fetched, and training had begun."""
    run_id = bench.ask()
    killed_at(RunStage.TRAIN)
    with pytest.raises(Killed):
        bench.go_on(run_id)
    bench.lapse(run_id)
    doomed = next(case for case in bench.cases if bench.sides(run_id)[case.id] is Split.TRAIN)
    assert doomed.image is not None
    with transaction() as session:
        erasure.erase(session, doomed.tenant_id, doomed.image.id, actor="test", request_id=None)
    originals.purge(bench.store, originals.doomed())
    before = bench.adapter(run_id)
    killed_at(RunStage.TRAIN)
    with pytest.raises(Killed):
        bench.go_on(run_id)
    assert bench.run_of(run_id).numbers["download"]["gone"] == 1
    assert bench.adapter(run_id) != before
    assert not list(bench.folder(run_id).glob(f"images/{doomed.image.sha256}*"))
    assert doomed.image.sha256 not in (bench.folder(run_id) / "train.json").read_text()


def test_a_lost_lease_ends_the_work_and_nothing_more_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes the run over while its images are being fetched, and is at it for the rest of this test."""
    run_id = bench.ask()
    fetch = stages.dataset.fetched

    def slow(*arguments: Any) -> Any:
        bench.lapse(run_id)
        bench.take()
        return fetch(*arguments)

    monkeypatch.setattr(stages.dataset, "fetched", slow)
    bench.go_on(run_id)
    run = bench.run_of(run_id)
    assert (run.status, run.fence, run.stage) == (RunStatus.RUNNING, 2, RunStage.DOWNLOAD)
    assert "download" not in run.numbers
    assert bench.folder(run_id).exists(), "it may be the other one's folder too"


def test_a_run_that_is_cancelled_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BEATS_PER_LEASE", 10 * bench.rules.retrain_lease_s)  # ten a second
    run_id = bench.ask()

    def cancelled(command: Any, log: Path, watch: Callable[[], None]) -> None:
        with transaction() as session:
            runs.cancel(session, run_id, actor="user:1")
        while True:
            watch()

    monkeypatch.setattr(child, "run", cancelled)
    run = bench.go_on(run_id)
    assert (run.status, run.reason) == (RunStatus.CANCELLED, None)
    assert not (bench.folder(run_id) / "images").exists()


def test_a_worker_that_is_to_stop_gives_the_run_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = bench.ask()

    def stopped(command: Any, log: Path, watch: Callable[[], None]) -> None:
        bench.stopping.set()
        watch()

    with monkeypatch.context() as patched:
        patched.setattr(child, "run", stopped)
        bench.go_on(run_id)
    assert bench.run_of(run_id).status is RunStatus.RUNNING
    bench.stopping.clear()
    assert bench.go_on(run_id).status is RunStatus.REJECTED
    assert bench.run_of(run_id).attempts == 1


def test_a_run_that_fails_after_training_leaves_no_golden_image_of_a_tenant(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def failing(work: evaluation.Work) -> None:
        seen.extend((work.adapter / "golden").iterdir())
        raise CheckpointError("as the test says")

    monkeypatch.setitem(evaluation.STEPS, "judge", failing)
    run = bench.go()
    assert run.status is RunStatus.FAILED
    assert seen and not any(path.exists() for path in seen)


def test_a_full_disk_is_named_before_anything_is_fetched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "SPARE_BYTES", 10**18)
    run = bench.go()
    assert run.status is RunStatus.FAILED
    assert run.reason is not None and run.reason.startswith("The disk is full: make room in TELLTALE_RETRAIN_FOLDER")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (OSError(errno.EACCES, "Permission denied"), "The run failed: "),
        (MemoryError(), "Memory ran out in the retraining worker."),
        (ZeroDivisionError("oh"), "The run failed with ZeroDivisionError: oh"),
        (DataError("INSERT", {}, ValueError("no such text")), "The run failed with DataError: (builtins.ValueError)"),
        (child.ChildFailed("Memory ran out: lower `batch_size`"), "Memory ran out"),
    ],
)
def test_whatever_goes_wrong_is_said_in_the_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def failing(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(child, "run", failing)
    run = bench.go()
    assert run.status is RunStatus.FAILED
    assert run.reason is not None and run.reason.startswith(reason)


def test_while_the_database_is_away_the_run_is_nobodys_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> None:
        raise OperationalError("SELECT", {}, ConnectionError("server closed the connection"))

    run_id = bench.ask()
    with monkeypatch.context() as patched, pytest.raises(OperationalError):
        patched.setattr(child, "run", failing)
        bench.go_on(run_id)
    assert bench.run_of(run_id).status is RunStatus.RUNNING
    bench.lapse(run_id)
    assert bench.go_on(run_id).status is RunStatus.REJECTED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"retrain_recipe": Path("/nowhere.yaml")}, "TELLTALE_RETRAIN_RECIPE /nowhere.yaml cannot be read"),
        ({"retrain_old_set": Path("/nowhere.json")}, "TELLTALE_RETRAIN_OLD_SET /nowhere.json is no file."),
        ({"retrain_old_set": Path(__file__)}, "TELLTALE_RETRAIN_OLD_SET: "),
        ({"retrain_accelerate": "everything"}, "--accelerate everything is neither a file nor one of"),
    ],
)
def test_a_wrong_setting_is_named(bench: Bench, changes: dict[str, Any], reason: str) -> None:
    bench.rules = bench.rules.model_copy(update=changes)
    run = bench.go()
    assert run.status is RunStatus.FAILED
    assert run.reason is not None and run.reason.startswith(reason)


def test_without_a_champion_there_is_nothing_to_go_on_from(bench: Bench) -> None:
    with transaction() as session:
        for version in session.query(ModelVersion):
            version.stage = ModelStage.RETIRED
    run = bench.go()
    assert (run.status, run.reason) == (
        RunStatus.FAILED,
        "No model version is champion: there is nothing to go on from.",
    )


def test_a_champion_that_changed_meanwhile_is_not_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, GateOutcome.PROMOTE)
    conclude = stages.Stages._conclude

    def overtaken(self: stages.Stages, session: Any, run: Any, version: ModelVersion) -> None:
        other = model_versions.register(
            session, checkpoint="/other", manifest={"name": "o", "kind": "demo"}, digest="o"
        )
        model_versions.promote(session, other.id, actor="test")
        conclude(self, session, run, version)

    monkeypatch.setattr(stages.Stages, "_conclude", overtaken)
    run = bench.go()
    assert run.status is RunStatus.KEPT
    assert run.reason is not None and run.reason.startswith("Another version was made champion meanwhile")


def test_what_lost_runs_left_behind_is_removed(bench: Bench, killed_at: Callable[[RunStage | None], None]) -> None:
    left = bench.rules.retrain_folder / "01900000-0000-7000-8000-000000000000" / stages.IMAGES
    left.mkdir(parents=True)
    killed_at(RunStage.SNAPSHOT)
    with pytest.raises(Killed):
        bench.go()
    assert not left.exists()


def test_an_answer_that_is_too_long_is_cut_to_whole_sentences(
    bench: Bench, killed_at: Callable[[RunStage | None], None]
) -> None:
    recipe = bench.rules.retrain_recipe
    assert recipe is not None
    recipe.write_text(recipe.read_text() + "max_length: 60\n")
    with transaction() as session:
        for case in bench.cases:
            review = session.query(Review).filter_by(case_id=case.id).one()
            session.add(ReviewedSentence(review_id=review.id, position=1, written="It is plain. " * 30))
    run_id = bench.ask()
    killed_at(RunStage.DOWNLOAD)
    with pytest.raises(Killed):
        bench.go_on(run_id)
    texts = {
        record["conversations"][1]["value"]
        for record in json.loads((bench.folder(run_id) / "train.json").read_text())
        if record["image"].startswith("images/")
    }
    assert all(text.startswith("This is a ") and text.endswith("plain.") and len(text) < 200 for text in texts)
