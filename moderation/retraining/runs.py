"""Training runs: asked for, taken under a lease, brought to an end. At most one is live at a time.

Found in state, as all work is: a run that beat, a person or a command asks for is a row, and the retraining worker
looks for it; no broker carries it. Who takes a run gets its next fence and renews the lease; whoever writes must still
hold the newest fence (`held`). A run whose worker died is gone on with by the next worker, a few times; one that nobody
went on with is marked lost when somebody asks for the next. It knows nothing of what a run does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation import events, notices
from moderation.db import FRESH, new_id, storable
from moderation.errors import Conflict, LostLease, NotFound
from moderation.tables import RUN_LIVE, ModelVersion, TrainingRun
from moderation.vocabulary import EventType, NoticeKind, RunStage, RunStatus

LIVE = (RunStatus.ASKED, RunStatus.RUNNING)
# Ends at which a gate has looked at what the run made.
JUDGED = (RunStatus.PROMOTED, RunStatus.KEPT, RunStatus.REJECTED)
ATTEMPTS = 3
WORKER = "retraining"
BEAT = "beat"
MAX_REASON = 2000  # characters

# Ends that operators are told of, and in what words; a promotion is told of by itself, and skipped nights are many.
_TOLD = {
    RunStatus.KEPT: (NoticeKind.RUN_KEPT, "{} waits for your answer"),
    RunStatus.REJECTED: (NoticeKind.RUN_REJECTED, "{} was rejected by the gate"),
    RunStatus.FAILED: (NoticeKind.RUN_FAILED, "A training run failed"),
    RunStatus.LOST: (NoticeKind.RUN_FAILED, "A training run was lost"),
}

_DEAD = TrainingRun.lease_until <= func.clock_timestamp()


@dataclass(frozen=True)
class Lease:
    """A worker's hold on a run."""

    run_id: UUID
    fence: int


def ask(session: Session, *, actor: str, night: date | None = None) -> TrainingRun:
    """Ask for a run, and return it, or the one that is live already, or `night`'s where it was asked for before.

    A live run whose worker is dead is marked lost first.
    """
    _bury(session, actor=actor)
    asked = insert(TrainingRun).values(id=new_id(), status=RunStatus.ASKED, asked_by=actor, night=night)
    run_id = session.scalar(asked.on_conflict_do_nothing().returning(TrainingRun.id))
    if run_id is None:
        return _in_the_way(session, night)
    events.record(
        session, EventType.RUN_ASKED, tenant_id=None, actor=actor, after={"run": str(run_id), "night": _iso(night)}
    )
    return session.get_one(TrainingRun, run_id)


def ask_for_the_night(session: Session, zone: ZoneInfo, hour: int) -> TrainingRun:
    """What beat does: ask for this night's run, once, however many schedulers there are."""
    return ask(session, actor=BEAT, night=night_of(datetime.now(zone), hour))


def night_of(now: datetime, hour: int) -> date:
    """The night that this local time is in, by the date on which it began; nights begin at `hour`, 0 to 23.

    What beat sent before midnight may be heard after it, where the broker or its worker was away: by the clock's date
    it would be the next night's, which would then have none.
    """
    return (now - timedelta(hours=hour)).date()


def _in_the_way(session: Session, night: date | None) -> TrainingRun:
    """The run because of which no other could be asked for."""
    same_night = select(TrainingRun).where(TrainingRun.night == night)
    run = session.scalar(same_night) if night else None
    run = run or live(session)
    if run is None:
        raise Conflict("A run has just ended: ask again.")
    return run


def live(session: Session) -> TrainingRun | None:
    """The run that is asked for or under way."""
    return session.scalar(select(TrainingRun).where(text(RUN_LIVE)), execution_options=FRESH)


def _bury(session: Session, *, actor: str) -> None:
    """A run whose lease ran out, and that no worker went on with, is lost."""
    dead = select(TrainingRun).where(TrainingRun.status == RunStatus.RUNNING, _DEAD).with_for_update(skip_locked=True)
    for run in session.scalars(dead, execution_options=FRESH):
        _end(session, run, RunStatus.LOST, "Its worker died, and no other went on with it.", actor=actor)
    session.flush()


def take(session: Session, lease: timedelta) -> Lease | None:
    """Lease the run that waits, or whose worker died; None where there is none.

    One that has cost its third worker is lost, and one that is to be cancelled is.
    """
    waits = (TrainingRun.status == RunStatus.ASKED) | ((TrainingRun.status == RunStatus.RUNNING) & _DEAD)
    run = session.scalar(select(TrainingRun).where(waits).with_for_update(skip_locked=True), execution_options=FRESH)
    if run is None:
        return None
    if run.cancel_requested_at is not None:
        _end(session, run, RunStatus.CANCELLED, None, actor=WORKER)
        return None
    if run.attempts >= ATTEMPTS:
        _end(session, run, RunStatus.LOST, f"{ATTEMPTS} workers died of it, one after another.", actor=WORKER)
        return None
    before = run.status
    run.status = RunStatus.RUNNING
    run.fence += 1
    run.attempts += 1
    run.heartbeat_at = _now(session)
    run.lease_until = run.heartbeat_at + lease
    run.started_at = run.started_at or run.heartbeat_at
    _record(session, run, EventType.RUN_STARTED, before, actor=WORKER)
    return Lease(run.id, run.fence)


def renew(session: Session, held: Lease, lease: timedelta) -> bool:
    """The worker lives; whether somebody has asked for the run to be cancelled. Raises LostLease."""
    now = func.clock_timestamp()
    row = session.execute(
        update(TrainingRun)
        .where(TrainingRun.id == held.run_id, TrainingRun.fence == held.fence, TrainingRun.status == RunStatus.RUNNING)
        .values(lease_until=now + lease, heartbeat_at=now)
        .returning(TrainingRun.cancel_requested_at)
    ).one_or_none()
    if row is None:
        raise LostLease(f"Run {held.run_id} is somebody else's by now, or has ended.")
    return row.cancel_requested_at is not None


def held(session: Session, lease: Lease) -> TrainingRun:
    """The run under a lease, locked. Raises LostLease where somebody else has taken it since, or it has ended."""
    query = select(TrainingRun).where(TrainingRun.id == lease.run_id).with_for_update()
    run = session.scalar(query, execution_options=FRESH)
    if run is None or run.fence != lease.fence or run.status is not RunStatus.RUNNING:
        raise LostLease(f"Run {lease.run_id} is somebody else's by now, or has ended.")
    return run


def enter(session: Session, lease: Lease, stage: RunStage) -> TrainingRun:
    """The run is at this stage from now on. Raises LostLease."""
    run = held(session, lease)
    run.stage = stage
    return run


def note(session: Session, lease: Lease, stage: RunStage, numbers: dict[str, Any]) -> TrainingRun:
    """Keep what a stage found; again replaces it. Raises LostLease."""
    run = held(session, lease)
    run.numbers = {**run.numbers, stage.value: numbers}
    return run


def release(session: Session, lease: Lease) -> None:
    """Give a run back unfinished, so that the next worker goes on with it at once. Raises LostLease."""
    run = held(session, lease)
    run.attempts -= 1
    run.lease_until = _now(session)


def cancel(session: Session, run_id: UUID, *, actor: str) -> TrainingRun:
    """Have a run end: at once where nobody has it, else when its worker sees it. Raises NotFound, Conflict."""
    run = run_of(session, run_id, lock=True)
    if run.status not in LIVE:
        raise Conflict(f"The run has ended already: it is {run.status.value}.")
    if run.cancel_requested_at is not None:
        return run
    run.cancel_requested_at, run.cancel_requested_by = _now(session), actor
    _record(session, run, EventType.RUN_CANCELLED, run.status, actor=actor)
    if run.status is RunStatus.ASKED:
        _end(session, run, RunStatus.CANCELLED, None, actor=actor)
    return run


def end(session: Session, lease: Lease, status: RunStatus, reason: str | None = None) -> TrainingRun:
    """Bring a run to its end; `reason` says why where no gate has. Raises LostLease."""
    run = held(session, lease)
    _end(session, run, status, reason, actor=WORKER)
    return run


def decide(session: Session, run_id: UUID, status: RunStatus, *, actor: str) -> TrainingRun:
    """A lead's word on a run that was kept for one: `promoted` or `rejected`. Raises NotFound, Conflict."""
    run = run_of(session, run_id, lock=True)
    if run.status is not RunStatus.KEPT or status not in (RunStatus.PROMOTED, RunStatus.REJECTED):
        raise Conflict(f"The run is {run.status.value}: only one that was kept for a lead can be decided.")
    _end(session, run, status, None, actor=actor)
    return run


def run_of(session: Session, run_id: UUID, *, lock: bool = False) -> TrainingRun:
    """Raises NotFound."""
    query = select(TrainingRun).where(TrainingRun.id == run_id)
    run = session.scalar(query.with_for_update() if lock else query, execution_options=FRESH)
    if run is None:
        raise NotFound(f"There is no training run {run_id}.")
    return run


def find(session: Session, what: str) -> TrainingRun | None:
    """The run with this id, or the newest with a snapshot of this digest; None where there is none."""
    try:
        return session.get(TrainingRun, UUID(what))
    except ValueError:
        query = select(TrainingRun).where(TrainingRun.snapshot_digest == what)
        return session.scalar(query.order_by(TrainingRun.id.desc()).limit(1))


def latest(session: Session, limit: int = 50) -> Sequence[TrainingRun]:
    """The newest runs first."""
    return session.scalars(select(TrainingRun).order_by(TrainingRun.id.desc()).limit(limit)).all()


def _end(session: Session, run: TrainingRun, status: RunStatus, reason: str | None, *, actor: str) -> None:
    before = run.status
    run.status = status
    run.lease_until = None
    run.ended_at = _now(session)
    run.upkeep_at = run.upkeep_at or run.ended_at
    run.reason = storable(reason[:MAX_REASON]) if reason else None
    _record(session, run, EventType.RUN_ENDED, before, actor=actor)
    if before is RunStatus.KEPT:  # somebody has decided it
        notices.withdraw(session, _subject(run, RunStatus.KEPT))
    elif status in _TOLD:
        _tell(session, run, actor=actor)


def tell_of_kept(session: Session) -> int:
    """Runs that wait for an operator are told to those who have become one since, too; how many wait."""
    waiting = session.scalars(select(TrainingRun).where(TrainingRun.status == RunStatus.KEPT)).all()
    for run in waiting:
        _tell(session, run, actor=WORKER)
    return len(waiting)


def _tell(session: Session, run: TrainingRun, *, actor: str) -> None:
    """Whoever decides about runs hears how this one ended, where they have to act on it or would miss it."""
    kind, words = _TOLD[run.status]
    version = session.get(ModelVersion, run.model_version_id) if run.model_version_id else None
    why = run.reason or " ".join(run.reasons) or "Look at the run for what it found."
    title = words.format(version.name if version else "A version")
    notices.tell(session, kind, _subject(run, run.status), title, why, actor=actor, run_id=run.id)


def _subject(run: TrainingRun, status: RunStatus) -> str:
    return f"run {run.id} {status.value}"


def _record(session: Session, run: TrainingRun, type_: EventType, before: RunStatus, *, actor: str) -> None:
    events.record(
        session,
        type_,
        tenant_id=None,
        actor=actor,
        before={"status": before.value},
        after={"run": str(run.id), "status": run.status.value, "attempt": run.attempts, "reason": run.reason},
    )


def _iso(night: date | None) -> str | None:
    return night.isoformat() if night else None


def _now(session: Session) -> datetime:
    now = session.scalar(select(func.clock_timestamp()))
    assert isinstance(now, datetime)
    return now.astimezone(UTC)
