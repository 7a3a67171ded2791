"""`telltale retrain` and `telltale export-dataset`: asking, following, cancelling, doing it here, and the files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from infra.cli import telltale
from infra.commands import retrain as command
from infra.services import wait_until
from model.evaluate.records import dataset as evaluation
from moderation.db import transaction
from moderation.retraining import runs
from moderation.settings import settings
from moderation.tables import TrainingRun
from moderation.vocabulary import RunStage, RunStatus
from tests import forked
from tests.forked import Nursery
from tests.workers.retraining.conftest import Bench, bench, champion_folder

__all__ = ["bench", "champion_folder"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(telltale, list(arguments))


def the_run(result: Result) -> TrainingRun:
    with transaction() as session:
        return runs.run_of(session, UUID(json.loads(result.stdout)["run"]))


def test_asking_makes_a_run_and_asking_again_finds_it(db: Engine) -> None:
    first, again = run("retrain", "--no-follow", "--json"), run("retrain", "--no-follow", "--json")
    assert first.exit_code == again.exit_code == 0
    assert the_run(first).id == the_run(again).id
    assert (the_run(first).status, the_run(first).asked_by) == (RunStatus.ASKED, "operator")


def test_cancelling_ends_it_and_then_there_is_none(db: Engine) -> None:
    run("retrain", "--no-follow")
    result = run("retrain", "--cancel", "--json")
    assert result.exit_code == 0
    assert the_run(result).status is RunStatus.CANCELLED
    result = run("retrain", "--cancel")
    assert (result.exit_code, result.stderr) == (1, "Error: No run is asked for or under way.\n")


def test_options_that_contradict_each_other_are_refused() -> None:
    result = run("retrain", "--here", "--cancel")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns once the command has said a line that begins so; it looks often."""
    lines: list[str] = []
    say = command._say

    def remember(line: str) -> None:
        say(line)
        lines.append(line)

    monkeypatch.setattr(command, "POLL_S", 0.05)
    monkeypatch.setattr(command, "_say", remember)
    return lambda start: wait_until(lambda: any(line.startswith(start) for line in lines), f"the line {start!r}")


@pytest.mark.parametrize(("status", "code"), [(RunStatus.REJECTED, 0), (RunStatus.FAILED, 1)])
def test_following_tells_what_becomes_of_it(
    db: Engine, said: Callable[[str], None], status: RunStatus, code: int
) -> None:
    def work() -> None:
        said("Run ")
        with transaction() as session:
            lease = runs.take(session, timedelta(seconds=60))
            assert lease is not None
            runs.enter(session, lease, RunStage.TRAIN).progress = {
                "update": 3,
                "updates": 10,
                "loss": 0.5,
                "seconds_left": 70,
            }
        said("train: ")
        with transaction() as session:
            runs.end(session, lease, status, "as it was told")

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        result = run("retrain", "--json")
        working.result()
    assert result.exit_code == code
    assert "train: update 3 of 10, loss 0.5, 70 s left\n" in result.stderr
    assert result.stderr.endswith(f"{status.value}: as it was told\n")
    assert the_run(result).status is status


def test_where_no_worker_takes_it_that_is_said_once(
    db: Engine, said: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[RunStatus] = []
    line = command.line
    monkeypatch.setattr(command, "UNTAKEN_AFTER_S", 0.3)
    monkeypatch.setattr(command, "line", lambda run: looks.append(run.status) or line(run))
    with transaction() as session:
        run_id = runs.ask(session, actor="test").id

    def cancel() -> None:
        said("No retraining worker has taken it")
        before = len(looks)
        wait_until(lambda: len(looks) > before + 3, "another look")
        with transaction() as session:
            runs.cancel(session, run_id, actor="test")

    with ThreadPoolExecutor(1) as pool:
        cancelling = pool.submit(cancel)
        result = run("retrain")
        cancelling.result()
    assert result.exit_code == 1
    assert result.stderr.count("No retraining worker has taken it") == 1
    assert str(run_id) in result.stdout


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Path]:
    """What starts processes that have imported what those of a run import, which takes each of them seven seconds."""
    ready = Nursery(tmp_path / "python.socket", ("workers.retraining.evaluation", "model.finetune.process"))
    script = tmp_path / "python"
    script.write_text(forked.interpreter(ready.path))
    script.chmod(0o755)
    ready.begin()
    yield script
    ready.end()


@pytest.mark.timeout(600)
def test_a_run_done_here_and_what_it_learned_from_as_files(
    bench: Bench, python: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every process of it is a real one."""
    monkeypatch.setattr(sys, "executable", str(python))
    for name in ("folder", "recipe", "min_reviews", "holdout_share", "passes", "burst_s", "old_set", "replay_set"):
        monkeypatch.setenv(f"TELLTALE_RETRAIN_{name.upper()}", str(getattr(bench.rules, f"retrain_{name}")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings.cache_clear()
    try:
        result = run("retrain", "--here", "--json")
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert result.exit_code == 0, result.stderr
    ended = the_run(result)
    assert ended.status is RunStatus.REJECTED, ended.reason
    assert "evaluate\n" in result.stderr
    result = run("export-dataset", str(ended.id), "--out", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["train.json"] + said["test.json"] == 16
    assert len(evaluation.read(tmp_path / "out" / "test.json").samples) == said["test.json"]
