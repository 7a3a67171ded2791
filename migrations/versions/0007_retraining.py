"""Retraining: runs, which case was what in which of them, and verdicts of a new version that are asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NONE = sa.text("0")
EMPTY = sa.text("'{}'")


def words(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, length=40)


STATUSES = ("asked", "running", "promoted", "kept", "rejected", "skipped", "failed", "cancelled", "lost")
STAGES = ("snapshot", "split", "download", "train", "evaluate", "calibrate", "gate", "promote")


def upgrade() -> None:
    op.create_table(
        "training_runs",
        sa.Column("status", words("runstatus", *STATUSES), nullable=False),
        sa.Column("stage", words("runstage", *STAGES), nullable=True),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("night", sa.Date(), nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("fence", sa.Integer(), server_default=NONE, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=NONE, nullable=False),
        sa.Column("heartbeat_at", TIME, nullable=True),
        sa.Column("cancel_requested_at", TIME, nullable=True),
        sa.Column("cancel_requested_by", sa.Text(), nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("snapshot_key", sa.Text(), nullable=True),
        sa.Column("snapshot_digest", sa.Text(), nullable=True),
        sa.Column("base", sa.Text(), nullable=True),
        sa.Column("configuration", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("progress", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("numbers", postgresql.JSONB(none_as_null=True), server_default=EMPTY, nullable=False),
        sa.Column("outcome", words("gateoutcome", "promote", "ask", "reject"), nullable=True),
        sa.Column("reasons", postgresql.ARRAY(sa.Text()), server_default=EMPTY, nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("model_version_id", sa.Uuid(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_training_runs_model_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_runs")),
        sa.UniqueConstraint("night", name=op.f("uq_training_runs_night")),
    )
    op.create_index(
        "uq_training_runs_live",
        "training_runs",
        [sa.text("(true)")],
        unique=True,
        postgresql_where="status IN ('asked', 'running')",
    )
    op.create_index(op.f("ix_training_runs_snapshot_digest"), "training_runs", ["snapshot_digest"])
    op.create_table(
        "training_examples",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("split", words("split", "train", "holdout", "left_out"), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name=op.f("fk_training_examples_case_id")),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_training_examples_image_id")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_runs.id"], name=op.f("fk_training_examples_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_training_examples_tenant_id")),
        sa.PrimaryKeyConstraint("run_id", "case_id", name=op.f("pk_training_examples")),
    )
    for column in ("case_id", "image_id", "tenant_id"):
        op.create_index(op.f(f"ix_training_examples_{column}"), "training_examples", [column])
    op.create_index("ix_training_examples_sha256", "training_examples", ["sha256"])
    op.add_column("model_versions", sa.Column("removed_at", TIME, nullable=True))
    op.create_table(
        "rejudgings",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=NONE, nullable=False),
        sa.Column("fence", sa.Integer(), server_default=NONE, nullable=False),
        sa.Column("next_attempt_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("offered_until", TIME, nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("failed_at", TIME, nullable=True),
        sa.Column("failure_detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name=op.f("fk_rejudgings_case_id")),
        sa.PrimaryKeyConstraint("case_id", name=op.f("pk_rejudgings")),
    )
    op.create_index("ix_rejudgings_due", "rejudgings", ["next_attempt_at"], postgresql_where="failed_at IS NULL")


def downgrade() -> None:
    op.drop_table("rejudgings")
    op.drop_column("model_versions", "removed_at")
    op.drop_table("training_examples")
    op.drop_table("training_runs")
