"""The worker as it is run, a trainer in a process of its own; what SIGKILL, SIGTERM and a person do to them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from moderation.db import transaction
from moderation.retraining import runs
from moderation.settings import settings
from moderation.vocabulary import RunStage, RunStatus
from tests.workers.retraining.conftest import Bench
from workers.retraining import __main__ as program

ENOUGH_S = 120
# Whose trainer only counts, and does not take ten seconds to start.
COUNTING = "tests.workers.retraining.counting_trainer"
Start = Callable[..., subprocess.Popen[bytes]]
UPDATE = re.compile(r"update (\d+) of (\d+)")


def until(said: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + ENOUGH_S
    while not said():
        assert time.monotonic() < deadline, f"{what} did not happen in {ENOUGH_S} s"
        time.sleep(0.1)


@pytest.fixture
def start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start the worker, with a trainer that would count for minutes."""
    given: dict[str, object] = {"retrain_lease_s": 20}
    names = ("folder", "recipe", "min_reviews", "holdout_share", "burst_s", "old_set", "replay_set")
    given |= {f"retrain_{name}": getattr(bench.rules, f"retrain_{name}") for name in names}
    for name, value in given.items():
        monkeypatch.setenv(f"TELLTALE_{name.upper()}", str(value))
    started = []

    def one() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-m", COUNTING]))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.wait()


def updates(log: Path) -> list[int]:
    """What the trainer said it had done, in order."""
    return [int(found[1]) for found in UPDATE.finditer(log.read_text())] if log.exists() else []


def trainers(folder: Path) -> list[int]:
    """The processes that train in this folder, whoever started them."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        command = process.info["cmdline"] or []
        ours = "model.finetune" in command and str(folder / "run.yaml") in command
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.info["pid"])
    return found


def test_a_killed_worker_takes_its_trainer_with_it_and_the_next_goes_on_from_the_last_state(
    bench: Bench, start: Start
) -> None:
    run_id = bench.ask()
    folder = bench.folder(run_id)
    log = folder / "train.log"
    worker = start()
    until(lambda: bool(updates(log)) and updates(log)[-1] >= 5, "training")
    until(lambda: (bench.run_of(run_id).progress or {}).get("update", 0) > 0, "progress in the row")
    worker.kill()
    worker.wait()
    until(lambda: not trainers(folder), "the trainer's end")
    done = updates(log)
    assert bench.run_of(run_id).status is RunStatus.RUNNING

    bench.lapse(run_id)
    start()
    until(lambda: len(updates(log)) > len(done), "going on")
    assert updates(log)[len(done)] > 1, "it has not begun again"
    run = bench.run_of(run_id)
    assert (run.stage, run.attempts) == (RunStage.TRAIN, 2)

    outer = min(map(psutil.Process, trainers(folder)), key=psutil.Process.create_time)
    outer.kill()  # and the other one, which is tethered to it, ends too
    until(lambda: bench.run_of(run_id).status is RunStatus.FAILED, "the run's end")
    assert "killed from outside" in (bench.run_of(run_id).reason or "")


def test_sigterm_gives_the_run_back_and_a_person_ends_it(bench: Bench, start: Start) -> None:
    run_id = bench.ask()
    folder = bench.folder(run_id)
    worker = start()
    until(lambda: bool(trainers(folder)), "training")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(ENOUGH_S) == 0
    assert not trainers(folder)
    run = bench.run_of(run_id)
    assert (run.status, run.attempts) == (RunStatus.RUNNING, 0)

    start()
    until(lambda: bool(trainers(folder)), "training again")
    with transaction() as session:
        runs.cancel(session, run_id, actor="user:1")
    until(lambda: bench.run_of(run_id).status is RunStatus.CANCELLED, "the run's end")
    assert not trainers(folder)
    until(lambda: not (folder / "images").exists(), "tidying up")


def test_a_job_does_the_run_that_waits_and_what_follows_and_ends(
    db: Engine, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = settings().model_copy(update={"retrain_folder": tmp_path})
    monkeypatch.setattr(program, "settings", lambda: rules)
    monkeypatch.setattr(program.logs, "configure", lambda *_: None)
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)
    program.main(["--until-done"])
    with transaction() as session:
        run_id = runs.ask(session, actor="test").id
    program.main(["--until-done"])
    with transaction() as session:
        run = runs.run_of(session, run_id)
    assert run.status not in runs.LIVE
    assert run.reason and run.upkeep_at is None, "it was looked after, too"
