"""Training runs, what they learned from, and what they and their models were measured to do."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from moderation.tables.accounts import Tenant
from moderation.tables.cases import Case
from moderation.tables.images import Image
from moderation.tables.row import Identified, Row
from moderation.tables.verdicts import ModelVersion
from moderation.vocabulary import GateOutcome, PanelSet, RunStage, RunStatus, Split

RUN_LIVE = "status IN ('asked', 'running')"


class TrainingRun(Identified, Row):
    """One try to make a better model of what was reviewed (moderation/retraining/runs.py). At most one is live.

    `night` is the local date that beat asked for it on, once. `lease_until` and `fence` are its worker's, as with
    cases; `attempts` counts workers that took it and died. `progress`: update, updates, loss, and seconds left of the
    training. `numbers` is whatever the stages measured, by stage. `outcome` and `reasons` are the gate's, `reason` says
    why a run ended without one. `model_version_id` is the version that came of it. `upkeep_at`: from then on somebody
    is to measure the panel and to clear up, in `upkeep_attempts`; `panel_note` says why nothing was measured.
    """

    __tablename__ = "training_runs"
    __table_args__ = (
        Index("uq_training_runs_live", text("(true)"), unique=True, postgresql_where=RUN_LIVE),
        UniqueConstraint("night"),
    )

    status: Mapped[RunStatus]
    stage: Mapped[RunStage | None]
    asked_by: Mapped[str]
    night: Mapped[date | None]
    lease_until: Mapped[datetime | None]
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    heartbeat_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_requested_by: Mapped[str | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    snapshot_key: Mapped[str | None]
    snapshot_digest: Mapped[str | None] = mapped_column(index=True)
    base: Mapped[str | None]
    configuration: Mapped[dict[str, Any] | None]
    progress: Mapped[dict[str, Any] | None]
    numbers: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    outcome: Mapped[GateOutcome | None]
    reasons: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    reason: Mapped[str | None]
    model_version_id: Mapped[UUID | None] = mapped_column(ForeignKey(ModelVersion.id))
    upkeep_at: Mapped[datetime | None]
    upkeep_attempts: Mapped[int] = mapped_column(server_default=text("0"))
    panel_note: Mapped[str | None]


class PanelMeasurement(Identified, Row):
    """The champion on one of the panel's sets, after one run (moderation/retraining/panel.py).

    `value` with its 95 % interval is balanced accuracy, of audits the share of decisions that were right; None where
    there were too few images, which `note` says. `change` since `before` with its interval is on the images that
    `reference_id` has too. `scores`: of each image its sha256, group, whether it is fake, logit and p_fake.
    """

    __tablename__ = "panel_measurements"
    __table_args__ = (UniqueConstraint("run_id", "measured"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey(TrainingRun.id))
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey(ModelVersion.id))
    measured: Mapped[PanelSet]
    images: Mapped[int]
    value: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    auc: Mapped[float | None]
    reference_id: Mapped[UUID | None] = mapped_column(ForeignKey("panel_measurements.id"))
    before: Mapped[float | None]
    change: Mapped[float | None]
    change_low: Mapped[float | None]
    change_high: Mapped[float | None]
    margin: Mapped[float]
    drifted: Mapped[bool]
    note: Mapped[str | None]
    scores: Mapped[list[list[Any]] | None] = mapped_column(JSONB(none_as_null=True), deferred=True)

    model_version: Mapped[ModelVersion] = relationship()


class TrainingExample(Row):
    """Which case was what in which run. It stays when the image is erased: an id and a hash, never bytes."""

    __tablename__ = "training_examples"
    __table_args__ = (Index("ix_training_examples_sha256", "sha256"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey(TrainingRun.id, ondelete="CASCADE"), primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey(Case.id), primary_key=True, index=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), index=True)
    image_id: Mapped[UUID] = mapped_column(ForeignKey(Image.id), index=True)
    sha256: Mapped[str]
    cluster: Mapped[str]
    split: Mapped[Split]
