"""Who decides for the whole deployment, and the standing panel: the champion measured after every run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
SETS = ("holdout", "recompressed", "blurred", "resized", "audits")


def upgrade() -> None:
    op.add_column("users", sa.Column("operator", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("training_runs", sa.Column("upkeep_at", TIME, nullable=True))
    op.add_column(
        "training_runs", sa.Column("upkeep_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("training_runs", sa.Column("panel_note", sa.Text(), nullable=True))
    op.create_table(
        "panel_measurements",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column("measured", sa.Enum(*SETS, name="panelset", native_enum=False, length=40), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Float(), nullable=True) for name in ("value", "low", "high", "auc")),
        sa.Column("reference_id", sa.Uuid(), nullable=True),
        sa.Column("before", sa.Float(), nullable=True),
        *(sa.Column(name, sa.Float(), nullable=True) for name in ("change", "change_low", "change_high")),
        sa.Column("margin", sa.Float(), nullable=False),
        sa.Column("drifted", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("scores", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["training_runs.id"], name=op.f("fk_panel_measurements_run_id")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_panel_measurements_model_version_id")
        ),
        sa.ForeignKeyConstraint(
            ["reference_id"], ["panel_measurements.id"], name=op.f("fk_panel_measurements_reference_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_panel_measurements")),
        sa.UniqueConstraint("run_id", "measured", name=op.f("uq_panel_measurements_run_id_measured")),
    )


def downgrade() -> None:
    op.drop_table("panel_measurements")
    for column in ("panel_note", "upkeep_attempts", "upkeep_at"):
        op.drop_column("training_runs", column)
    op.drop_column("users", "operator")
