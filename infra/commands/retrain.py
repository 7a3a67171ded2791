"""`telltale retrain`: asks for a training run and follows it, or does it here.

It asks by default, because the GPU is the retraining worker's, and Ctrl-C must not end a night's training; `--here`
is for a machine that has no such worker, and does the same with the same code, under the same lease.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from uuid import UUID

import click

from infra.printing import as_json_option, print_record
from moderation.db import transaction
from moderation.errors import Conflict
from moderation.retraining import runs
from moderation.settings import settings
from moderation.tables import TrainingRun
from moderation.vocabulary import RunStatus

ACTOR = "operator"
POLL_S = 0.5
UNTAKEN_AFTER_S = 30.0
# What the command's status is: the run did what it was asked to, whether or not that made a better model.
WELL = (*runs.JUDGED, RunStatus.SKIPPED)


@click.command()
@click.option("--here", is_flag=True, help="Do it in this process: for a machine without a retraining worker.")
@click.option("--no-follow", is_flag=True, help="Ask, and return at once.")
@click.option("--cancel", is_flag=True, help="End the run that is asked for or under way.")
@as_json_option
def retrain(here: bool, no_follow: bool, cancel: bool, as_json: bool) -> None:
    """Have the model learn from what was reviewed, and put the new version through the gate.

    Where a run is under way already, that one is followed. Ctrl-C stops following; the run goes on. The exit status is
    1 where the run failed, was cancelled or was lost.
    """
    if sum((here, no_follow, cancel)) > 1:
        raise click.UsageError("--here, --no-follow and --cancel exclude each other.")
    run_id = _cancelled() if cancel else _asked()
    if here:
        _do_here(run_id)
    elif not no_follow:
        _follow(run_id)
    with transaction() as session:
        run = runs.run_of(session, run_id)
    print_record(_described(run), as_json=as_json)
    if not no_follow and not cancel and run.status not in WELL:
        raise SystemExit(1)


def _asked() -> UUID:
    with transaction() as session:
        run = runs.ask(session, actor=ACTOR)
    _say(f"Run {run.id} is {run.status.value}.")
    return run.id


def _cancelled() -> UUID:
    with transaction() as session:
        run = runs.live(session)
        if run is None:
            raise Conflict("No run is asked for or under way.")
        return runs.cancel(session, run.id, actor=ACTOR).id


def _do_here(run_id: UUID) -> None:
    """The run, in this process. Ctrl-C gives it back, to be gone on with."""
    from moderation.storage import Storage
    from workers.retraining import upkeep
    from workers.retraining.run import turn

    stopping = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopping.set())
    teller = threading.Thread(target=_follow, args=(run_id, stopping), daemon=True)
    teller.start()
    try:
        store = Storage(settings())
        if not turn(store, settings(), stopping):
            raise Conflict("Another worker has this run: follow it without --here.")
        upkeep.turn(store, settings(), stopping)
    finally:
        signal.signal(signal.SIGINT, before)
    teller.join(2 * POLL_S)


def _follow(run_id: UUID, stopping: threading.Event | None = None) -> None:
    """Say what becomes of the run until it has ended."""
    asked, said, warned = time.monotonic(), "", False
    for run in looks(run_id):
        now = line(run)
        if now != said:
            _say(now)
            said = now
        if stopping is not None and stopping.is_set():
            return
        if run.status is RunStatus.ASKED and not warned and time.monotonic() - asked > UNTAKEN_AFTER_S:
            warned = True
            _say("No retraining worker has taken it: start one (python -m workers.retraining), or use --here.")


def looks(run_id: UUID) -> Iterator[TrainingRun]:
    """The run as it is, again and again, up to its end."""
    while True:
        with transaction() as session:
            run = runs.run_of(session, run_id)
        yield run
        if run.status not in runs.LIVE:
            return
        time.sleep(POLL_S)


def line(run: TrainingRun) -> str:
    """Where it is, in a line."""
    if run.status is not RunStatus.RUNNING or run.stage is None:
        return f"{run.status.value}{': ' + run.reason if run.reason else ''}"
    if run.progress and run.stage.value == "train":
        left = run.progress["seconds_left"]
        rest = "" if left is None else f", {left} s left"
        return f"train: update {run.progress['update']} of {run.progress['updates']}, loss {run.progress['loss']}{rest}"
    return run.stage.value


def _described(run: TrainingRun) -> dict[str, object]:
    return {
        "run": run.id,
        "status": run.status.value,
        "reason": run.reason or (run.reasons[0] if run.reasons else None),
        "snapshot": run.snapshot_digest,
        "asked_by": run.asked_by,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }


def _say(line: str) -> None:
    click.echo(line, err=True)
