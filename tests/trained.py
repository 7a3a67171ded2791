"""Training runs at any of their ends, and nights of the standing panel, as rows: with numbers that a gate gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from model import calibration, thresholds
from model.calibration import Scores
from model.gate import report
from model.gate.comparison import Pair
from model.gate.judgement import judge
from model.thresholds import Judged
from moderation.estimates import Interval
from moderation.retraining import runs
from moderation.retraining.panel import MARGIN, has_drifted
from moderation.tables import ModelVersion, PanelMeasurement, TrainingRun
from moderation.vocabulary import GateOutcome, PanelSet, RunStage, RunStatus
from tests.factories import make_version
from tests.model.gate.drawn import drawn, evidence

DIGEST = "4f1c" * 16


@cache
def numbers(accuracy: float) -> tuple[dict[str, Any], GateOutcome, str]:
    """What a run notes, by stage, where the new version has this balanced accuracy on new images; and its report."""
    rng = np.random.default_rng(5)
    new: Pair = drawn(rng, "new", 220, (0.70, accuracy))
    old: Pair = drawn(rng, "old", 620, (0.92, 0.92))
    shown = evidence(new, old)
    judgement = judge(shown)
    return (
        {
            "snapshot": {
                "examples": 412,
                "fresh": 187,
                "left_out": {"disagreement": 6, "cannot_tell": 9, "no_consent": 71},
            },
            "split": {"images": {"holdout fake": 34, "holdout real": 41, "train fake": 148, "train real": 189}},
            "download": {"gone": 2, "shown": 1_012, "replay_set": 240},
            "train": {"update": 212, "updates": 212, "loss": 0.2143, "seconds_left": 0},
            "calibrate": _calibrated(rng),
            "gate": judgement.model_dump(mode="json"),
        },
        GateOutcome(judgement.outcome),
        report.page(judgement, shown),
    )


def _calibrated(rng: np.random.Generator) -> dict[str, Any]:
    fake = rng.random(600) < 0.5
    logit = np.where(fake, 2.5, -2.5) + rng.normal(0, 1.4, 600)
    scores = Scores(logit, fake, np.ones(600), np.arange(600).astype(np.str_))
    chosen = calibration.choose(scores, "600 held-out images")
    proposal = thresholds.propose(Judged(calibration.apply(chosen.calibration, logit), fake))
    return {
        "calibration": chosen.calibration.model_dump(mode="json"),
        "reason": chosen.reason,
        "candidates": [asdict(each) for each in chosen.candidates],
        "thresholds": {**asdict(proposal), "fake_from": proposal.fake_from, "real_up_to": proposal.real_up_to},
    }


def make_run(
    session: Session,
    status: RunStatus,
    *,
    version: ModelVersion | None = None,
    accuracy: float = 0.78,
    ago: timedelta = timedelta(hours=5),
    asked_by: str = runs.BEAT,
) -> TrainingRun:
    """A run that came to this end, or that is under way and training."""
    now = datetime.now(UTC)
    run = TrainingRun(status=status, asked_by=asked_by, created_at=now - ago, started_at=now - ago, attempts=1, fence=1)
    run.base, run.snapshot_digest, run.snapshot_key = "lingcco/fakeVLM", DIGEST, f"snapshots/{DIGEST}.json"
    found, outcome, _ = numbers(accuracy)
    if status in (RunStatus.PROMOTED, RunStatus.KEPT, RunStatus.REJECTED):
        run.stage, run.numbers, run.outcome, run.reasons = RunStage.PROMOTE, found, outcome, [found["gate"]["reason"]]
        run.model_version_id = version.id if version else None
    else:
        run.stage = RunStage.TRAIN
        run.numbers = {name: found[name] for name in ("snapshot", "split", "download")}
    if status is RunStatus.RUNNING:
        run.progress = {"update": 87, "updates": 212, "loss": 0.4127, "seconds_left": 418}
        run.lease_until, run.heartbeat_at = now + timedelta(minutes=5), now
    else:
        run.ended_at = now - ago + timedelta(minutes=47)
    session.add(run)
    session.flush()
    return run


def make_night(
    session: Session, version: ModelVersion, values: Sequence[float], *, ago: timedelta, change: Interval | None = None
) -> TrainingRun:
    """What the panel said of a version one night: a value for each set, in their order; `change` of the first."""
    run = make_run(session, RunStatus.SKIPPED, ago=ago)
    for place, (measured, value) in enumerate(zip(PanelSet, values, strict=True)):
        moved = change if place == 0 else None
        session.add(
            PanelMeasurement(
                run_id=run.id,
                model_version_id=version.id,
                measured=measured,
                images=400,
                value=value,
                low=value - 0.03,
                high=value + 0.03,
                auc=min(1.0, value + 0.04),
                before=value - moved.value if moved else None,
                change=moved.value if moved else None,
                change_low=moved.low if moved else None,
                change_high=moved.high if moved else None,
                margin=MARGIN,
                drifted=moved is not None and has_drifted(moved),
                created_at=run.created_at,
            )
        )
    session.flush()
    return run


def make_challenger(session: Session, name: str) -> ModelVersion:
    """A version that could be promoted."""
    return make_version(session, name, champion=False)
