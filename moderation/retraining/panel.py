"""The standing panel: how good the champion is on images that stay the same, night after night.

The gate compares a night's two versions; a point lost every night would pass it every time. So after every run the
champion is measured on the oldest images of the holdout, which nobody trains on, as they were sent and as platforms
spoil them, and on what auditors said of its own decisions lately; and each is held against the best that was measured
of the same images before. It knows rows and arithmetic over shares: the images are judged in workers/retraining.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, selectinload, undefer

from moderation import events, model_versions, notices
from moderation.estimates import Interval, Observation, Share, share
from moderation.retraining import examples, runs
from moderation.retraining.snapshot import Example, Snapshot
from moderation.tables import Case, ModelVersion, PanelMeasurement, Review, TrainingRun, Verdict
from moderation.vocabulary import Answer, EventType, Label, NoticeKind, PanelSet, ReviewReason, Split

# Images of each class, the oldest of the holdout: with 200 an interval is about six points wide, and judging them four
# times costs a GPU half a minute.
MOST_OF_CLASS = 200
# Below it a balanced accuracy says nothing (as in the gate, model.gate.margins).
LEAST_OF_CLASS = 20
# What may be lost; the gate's margin for old data.
MARGIN = 0.02
# How far back the best measurement is looked for, and how much of today's set it must have had.
LOOK_BACK = timedelta(days=365)
NEARLY_THE_SAME = 0.8
# Audits of the last weeks, held against those of the weeks before them.
AUDITS_OF = timedelta(weeks=4)
AUDITS_BEFORE = timedelta(weeks=12)
TRIES = 3
# Time for one measurement, even of a large model without a GPU; then somebody else may begin it again.
TRY_FOR = timedelta(hours=6)
HISTORY = timedelta(days=180)
KEEP_SCORES = timedelta(days=400)


@dataclass(frozen=True)
class Measured:
    """What was measured of one set; `scores` as in its row. `change` is on the images that `reference` has too."""

    measured: PanelSet
    images: int
    value: Interval | None
    auc: float | None = None
    reference: UUID | None = None
    before: float | None = None
    change: Interval | None = None
    note: str | None = None
    scores: list[list[Any]] | None = None


def due(session: Session) -> TrainingRun | None:
    """Take the run after which the panel is to be measured and old things are to go; None where there is none.

    Whoever takes it has TRY_FOR; after TRIES it is given up.
    """
    query = select(TrainingRun).where(TrainingRun.upkeep_at <= func.clock_timestamp()).order_by(TrainingRun.id.desc())
    run = session.scalar(query.limit(1).with_for_update(skip_locked=True))
    if run is None:
        return None
    if run.upkeep_attempts >= TRIES:
        finished(session, run.id, f"The panel was given up after {TRIES} workers had been lost over it.")
        return None
    run.upkeep_at = datetime.now(UTC) + TRY_FOR
    run.upkeep_attempts += 1
    # What the runs before it have left, this one's takes care of.
    earlier = (TrainingRun.upkeep_at.is_not(None), TrainingRun.id < run.id)
    session.execute(update(TrainingRun).where(*earlier).values(upkeep_at=None))
    return run


def finished(session: Session, run_id: UUID, note: str | None) -> None:
    """Nothing is left to be done after this run; `note` says why nothing was measured, where nothing was."""
    run = runs.run_of(session, run_id, lock=True)
    run.upkeep_at, run.panel_note = None, note


def put_off(session: Session, run_id: UUID) -> None:
    """The worker stops before it is done: the next one begins at once."""
    run = runs.run_of(session, run_id, lock=True)
    run.upkeep_at = datetime.now(UTC)
    run.upkeep_attempts -= 1


def divided_last(session: Session) -> TrainingRun | None:
    """The newest run whose snapshot is there, and by whose holdout share it is divided."""
    query = select(TrainingRun).where(TrainingRun.snapshot_key.is_not(None))
    return session.scalar(query.order_by(TrainingRun.id.desc()).limit(1))


def frozen(snapshot: Snapshot, share: float) -> list[Example]:
    """The panel's images: the oldest of the holdout, as many as there are up to MOST_OF_CLASS of each class.

    They stay as long as they may be kept, however much is reviewed after them. `share` is the run's.
    """
    sides = examples.divided(snapshot, share)
    held = [each for each in snapshot.examples if sides[each.case] is Split.HOLDOUT]
    held.sort(key=lambda each: (each.reviewed_at, each.case))
    return [each for label in Label for each in [one for one in held if one.label is label][:MOST_OF_CLASS]]


def reference(session: Session, measured: PanelSet, images: int) -> PanelMeasurement | None:
    """The best that was measured of a set that was nearly as large, with its scores."""
    query = (
        select(PanelMeasurement)
        .where(
            PanelMeasurement.measured == measured,
            PanelMeasurement.value.is_not(None),
            PanelMeasurement.scores.is_not(None),
            PanelMeasurement.images >= NEARLY_THE_SAME * images,
            PanelMeasurement.created_at > func.now() - LOOK_BACK,
        )
        .order_by(PanelMeasurement.value.desc(), PanelMeasurement.id)
        .options(undefer(PanelMeasurement.scores))
    )
    return session.scalar(query.limit(1))


def audited(session: Session, version_id: UUID, now: datetime) -> Measured:
    """How often the version's automatic decisions of the last weeks were right, and all versions' before that.

    Audits are blind, and each counts 1/the probability with which it was drawn. The interval of the change is
    Newcombe's (1998, method 10) of the two Wilson intervals.
    """
    lately = _audits(session, Case.created_at > now - AUDITS_OF, Verdict.model_version_id == version_id)
    earlier = _audits(session, Case.created_at <= now - AUDITS_OF, Case.created_at > now - AUDITS_OF - AUDITS_BEFORE)
    if lately.found is None:
        note = f"{lately.n} audits of its decisions in {AUDITS_OF.days} days are too few to say."
        return Measured(PanelSet.AUDITS, lately.n, None, note=note)
    if earlier.found is None:
        return Measured(PanelSet.AUDITS, lately.n, lately.found, note="There are too few earlier audits to compare.")
    return Measured(
        PanelSet.AUDITS,
        lately.n,
        lately.found,
        before=earlier.found.value,
        change=_difference(lately.found, earlier.found),
    )


def _difference(now: Interval, before: Interval) -> Interval:
    value = now.value - before.value
    down = math.hypot(now.value - now.low, before.high - before.value)
    up = math.hypot(now.high - now.value, before.value - before.low)
    return Interval(value, max(-1.0, value - down), min(1.0, value + up))


def _audits(session: Session, *which: ColumnElement[bool]) -> Share:
    """The share of automatic decisions that auditors agree with."""
    last = (
        select(Review.answer)
        .where(
            Review.case_id == Case.id,
            Review.reason == ReviewReason.AUDIT,
            Review.settled_at.is_not(None),
            Review.answer != Answer.CANNOT_TELL,
        )
        .order_by(Review.settled_at.desc())
        .limit(1)
        .scalar_subquery()
        .correlate(Case)
    )
    query = (
        select(Case.policy_label, last, Case.audit_probability)
        .join(Verdict, Verdict.id == Case.verdict_id)
        .where(Case.audit_probability.is_not(None), Case.policy_label.is_not(None), last.is_not(None), *which)
    )
    return share(
        Observation(said.value == answer.value, 1 / probability) for said, answer, probability in session.execute(query)
    )


def keep(session: Session, run_id: UUID, version: ModelVersion, found: Sequence[Measured]) -> list[PanelMeasurement]:
    """Store what was measured after a run; again replaces it. A drop beyond its margin is an event.

    Leads are told of it when a set has become worse, not again every night that it stays so.
    """
    session.execute(delete(PanelMeasurement).where(PanelMeasurement.run_id == run_id))
    known = {row.measured for row in drifted(session)}
    rows = [_row(run_id, version.id, each) for each in found]
    session.add_all(rows)
    session.flush()
    worse = [row for row in rows if row.drifted]
    for row in worse:
        _record(session, version, row)
    if {row.measured for row in worse} - known:
        _tell(session, run_id, version, worse)
    return rows


def _row(run_id: UUID, version_id: UUID, found: Measured) -> PanelMeasurement:
    value, change = found.value, found.change
    return PanelMeasurement(
        run_id=run_id,
        model_version_id=version_id,
        measured=found.measured,
        images=found.images,
        **dict(zip(("value", "low", "high"), _three(value), strict=True)),
        auc=found.auc,
        reference_id=found.reference,
        before=found.before,
        **dict(zip(("change", "change_low", "change_high"), _three(change), strict=True)),
        margin=MARGIN,
        drifted=change is not None and has_drifted(change),
        note=found.note,
        scores=found.scores,
    )


def _three(found: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (found.value, found.low, found.high) if found else (None, None, None)


def has_drifted(change: Interval) -> bool:
    """As the gate fails what is old: more than the margin is lost, and the interval lies below zero."""
    return change.value < -MARGIN and change.high < 0


def _tell(session: Session, run_id: UUID, version: ModelVersion, worse: Sequence[PanelMeasurement]) -> None:
    lost = [
        f"{-(row.change or 0) * 100:.1f} points on the set “{row.measured.value}”, to {(row.value or 0) * 100:.1f} %"
        for row in worse
    ]
    notices.tell(
        session,
        NoticeKind.MODEL_DRIFTED,
        f"panel {run_id}",
        f"{version.name} has got worse",
        f"The standing panel lost more than {MARGIN * 100:.0f} points: {'; '.join(lost)}. Look at what came with the "
        "last promotion, and at your thresholds; an operator can roll back.",
        actor=runs.WORKER,
        for_operators=False,
    )


def _record(session: Session, version: ModelVersion, row: PanelMeasurement) -> None:
    """For the audit trail: platforms' endpoints are not told."""
    assert row.change is not None and row.change_low is not None and row.change_high is not None
    events.record(
        session,
        EventType.MODEL_DRIFTED,
        tenant_id=None,
        actor=runs.WORKER,
        before={"value": row.before},
        after={
            "version": version.name,
            "measured": row.measured.value,
            "value": row.value,
            "change": round(row.change, 4),
            "interval": [round(row.change_low, 4), round(row.change_high, 4)],
            "margin": row.margin,
            "images": row.images,
        },
    )


def history(session: Session) -> Sequence[PanelMeasurement]:
    """What was measured in the last half year, the oldest first."""
    since = func.now() - HISTORY
    query = select(PanelMeasurement).where(PanelMeasurement.created_at > since).order_by(PanelMeasurement.id)
    return session.scalars(query.options(selectinload(PanelMeasurement.model_version))).all()


def latest(session: Session) -> list[PanelMeasurement]:
    """Each set's last measurement of the champion; of a new one, none until it has been measured."""
    query = (
        select(PanelMeasurement)
        .where(PanelMeasurement.model_version_id == model_versions.champion_id(session))
        .ext(distinct_on(PanelMeasurement.measured))
        .order_by(PanelMeasurement.measured, PanelMeasurement.id.desc())
    )
    found = {row.measured: row for row in session.scalars(query)}
    return [found[measured] for measured in PanelSet if measured in found]


def drifted(session: Session) -> list[PanelMeasurement]:
    """The sets on which the champion was found to have got worse, when they were measured last."""
    return [row for row in latest(session) if row.drifted]
