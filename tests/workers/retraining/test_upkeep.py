"""After every run: the champion on images that stay the same, whether it has got worse, and what may go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from moderation import erasure, model_versions
from moderation.db import transaction
from moderation.retraining import panel, runs
from moderation.retraining.snapshot import Example
from moderation.storage import snapshot_key
from moderation.tables import Case, Event, PanelMeasurement, TrainingRun
from moderation.vocabulary import EventType, PanelSet, RunStatus, Split
from tests.workers.retraining.conftest import Bench
from workers.retraining import child, evaluation, measuring, upkeep
from workers.retraining.child import ChildFailed

IMAGES = {PanelSet.HOLDOUT, PanelSet.RECOMPRESSED, PanelSet.BLURRED, PanelSet.RESIZED}


def in_process(command: Sequence[str], log: Path, watch: Callable[[], None]) -> None:
    """What `child.run` does, without a process."""
    watch()
    code = measuring.main(command[-1]) if "workers.retraining.measuring" in command else evaluation.main(*command[-2:])
    if code:
        raise ChildFailed("It was refused; standard error says why.")


@pytest.fixture
def held(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench all of whose pictures are held out: every run ends with nothing to learn."""
    monkeypatch.setattr(child, "run", in_process)
    monkeypatch.setattr(upkeep, "LEAST_OF_CLASS", 5)
    bench.rules = bench.rules.model_copy(update={"retrain_holdout_share": 1.0})
    return bench


def night(bench: Bench) -> dict[PanelSet, PanelMeasurement]:
    """A run, and what is done after it."""
    run = bench.go()
    assert run.status is RunStatus.SKIPPED, run.reason
    assert upkeep.turn(bench.store, bench.rules, bench.stopping)
    assert not upkeep.turn(bench.store, bench.rules, bench.stopping), "once"
    with transaction() as session:
        assert runs.run_of(session, run.id).panel_note is None
        rows = session.query(PanelMeasurement).filter_by(run_id=run.id)
        return {row.measured: row for row in rows}


def events() -> list[dict[str, Any]]:
    with transaction() as session:
        return [event.after or {} for event in session.query(Event).filter_by(type=EventType.MODEL_DRIFTED)]


def test_the_champion_is_measured_though_nothing_was_learned_and_held_against_its_best(held: Bench) -> None:
    first = night(held)
    assert set(first) == set(PanelSet)
    assert {first[each].images for each in IMAGES} == {16}
    assert all(first[each].change is None and first[each].value is not None for each in IMAGES)
    assert "too few" in (first[PanelSet.AUDITS].note or "")
    assert not list(held.rules.retrain_folder.glob("*/images")), "no image stays"
    second = night(held)
    for each in IMAGES:
        assert (second[each].reference_id, second[each].change) == (first[each].id, 0.0)
        assert not second[each].drifted
    assert events() == []
    says_real_of_everything()
    third = night(held)[PanelSet.HOLDOUT]
    assert (third.value, third.auc) == (0.5, first[PanelSet.HOLDOUT].auc), "which order scores have is the same"
    assert (third.reference_id, third.before) == (first[PanelSet.HOLDOUT].id, first[PanelSet.HOLDOUT].value)
    assert third.change is not None and third.change < -panel.MARGIN
    assert third.drifted, (third.change, third.change_low, third.change_high)
    told = next(each for each in events() if each["measured"] == "holdout")
    assert (told["value"], told["margin"]) == (0.5, panel.MARGIN)
    with transaction() as session:
        assert PanelSet.HOLDOUT in [row.measured for row in panel.drifted(session)]


def says_real_of_everything() -> None:
    """The champion has come to be worse than it was, however that came about."""
    with transaction() as session:
        champion = model_versions.champion(session)
        assert champion is not None
        curve = {"method": "platt", "scale": 1.0, "bias": -1000.0}
        champion.manifest = {**champion.manifest, "calibration": curve}


def test_new_reviews_do_not_move_the_panel_and_an_erased_image_leaves_it(
    held: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel, "MOST_OF_CLASS", 6)
    before = names(night(held))
    held.review(8, shade=3)
    assert names(night(held)) == before and len(before) == 12
    with transaction() as session:
        case = next(each for each in (session.get_one(Case, c.id) for c in held.cases) if sha(each) in before)
        assert case.image_id is not None
        gone = sha(case)
        erasure.erase(session, case.tenant_id, case.image_id, actor="test", request_id=None)
    after = names(night(held))
    assert gone not in after and before - {gone} <= after


def test_another_share_for_later_runs_puts_nothing_that_was_trained_on_into_the_panel(
    held: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.rules = held.rules.model_copy(update={"retrain_holdout_share": 0.3, "retrain_min_reviews": 17})
    run = held.go()
    held.rules = held.rules.model_copy(update={"retrain_holdout_share": 0.9})
    chosen: list[Example] = []
    monkeypatch.setattr(upkeep.dataset, "fetched", lambda store, wanted, *_: chosen.extend(wanted))
    assert upkeep.turn(held.store, held.rules, held.stopping)
    sides = held.sides(run.id)
    assert {each.case for each in chosen} == {case for case, side in sides.items() if side is Split.HOLDOUT}
    assert set(sides.values()) == {Split.TRAIN, Split.HOLDOUT}


def names(rows: dict[PanelSet, PanelMeasurement]) -> set[str]:
    with transaction() as session:
        row = session.get_one(PanelMeasurement, rows[PanelSet.HOLDOUT].id)
        return {each[0] for each in row.scores or ()}


def sha(case: Case) -> str:
    assert case.image is not None
    return case.image.sha256


def test_a_champion_that_cannot_be_loaded_is_said_and_not_tried_for_ever(held: Bench) -> None:
    run = held.go()
    with transaction() as session:
        champion = model_versions.champion(session)
        assert champion is not None
        champion.checkpoint = "/nowhere"
    assert upkeep.turn(held.store, held.rules, held.stopping)
    with transaction() as session:
        assert "could not be measured" in (runs.run_of(session, run.id).panel_note or "")
    assert not upkeep.turn(held.store, held.rules, held.stopping)


def test_a_worker_that_stops_leaves_it_to_the_next_and_one_that_dies_does_so_three_times(
    held: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = held.go()
    stopped = threading.Event()
    stopped.set()
    assert upkeep.turn(held.store, held.rules, stopped)
    with transaction() as session:
        assert runs.run_of(session, run.id).upkeep_attempts == 0
    monkeypatch.setattr(upkeep, "_measured", lambda *_: pytest.fail("the worker dies here"))
    for _ in range(panel.TRIES):
        with pytest.raises(pytest.fail.Exception):
            upkeep.turn(held.store, held.rules, held.stopping)
        assert not upkeep.turn(held.store, held.rules, held.stopping), "somebody may be at it"
        with transaction() as session:
            session.execute(update(TrainingRun).values(upkeep_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert not upkeep.turn(held.store, held.rules, held.stopping)
    with transaction() as session:
        row = runs.run_of(session, run.id)
        assert row.upkeep_at is None and "given up" in (row.panel_note or "")


def test_what_is_old_goes_and_what_a_version_was_made_of_stays(held: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderation.retraining.retention.KEEP", 1)
    promoted, old, recent, newest = (held.go() for _ in range(4))
    digests = {}
    with transaction() as session:
        for number, run in enumerate((promoted, old, recent, newest)):
            row = runs.run_of(session, run.id)
            row.snapshot_digest, row.snapshot_key = str(number) * 64, snapshot_key(str(number) * 64)
            held.store.put(row.snapshot_key, b"{}", "application/json")
            digests[run.id] = row.snapshot_key
            if run.id in (promoted.id, old.id):
                row.ended_at = datetime.now(UTC) - timedelta(days=40)
            (held.folder(run.id)).mkdir(parents=True, exist_ok=True)
        runs.run_of(session, promoted.id).status = RunStatus.PROMOTED
        champion = model_versions.champion(session)
        assert champion is not None
        champion.checkpoint = str(held.folder(promoted.id).resolve() / "adapter")  # a full checkpoint is loaded there
    monkeypatch.setattr(upkeep, "_measured", lambda *_: None)
    assert upkeep.turn(held.store, held.rules, held.stopping)
    assert {run_id: held.store.exists(key) for run_id, key in digests.items()} == {
        promoted.id: True,
        old.id: False,
        recent.id: True,
        newest.id: True,
    }
    assert held.folder(promoted.id).exists() and held.folder(recent.id).exists() and not held.folder(old.id).exists()
    with transaction() as session:
        row = runs.run_of(session, old.id)
        assert row.snapshot_key is None and row.snapshot_digest == "1" * 64, "what it learned from is remembered"
        assert session.query(Event).filter_by(type=EventType.SNAPSHOT_REMOVED).count() == 1
