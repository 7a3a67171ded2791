"""What people must be told, and the mail that it is sent by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
KINDS = ("run_kept", "run_rejected", "run_failed", "model_promoted", "model_rolled_back", "model_drifted")


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Enum(*KINDS, name="noticekind", native_enum=False, length=40), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("subject", "title", "text")),
        sa.Column("for_operators", sa.Boolean(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("read_at", TIME, nullable=True),
        sa.Column("mailed_at", TIME, nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_notices_user_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run_id"], ["training_runs.id"], name=op.f("fk_notices_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sa.UniqueConstraint("user_id", "subject", name=op.f("uq_notices_user_id_subject")),
    )
    op.create_index("ix_notices_listed", "notices", ["user_id", "id"])
    op.create_index("ix_notices_unread", "notices", ["user_id"], postgresql_where=sa.text("read_at IS NULL"))
    op.create_table(
        "notice_mails",
        sa.Column("notice_id", sa.Uuid(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("fence", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("offered_until", TIME, nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("failed_at", TIME, nullable=True),
        sa.Column("failure_detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["notice_id"], ["notices.id"], name=op.f("fk_notice_mails_notice_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("notice_id", name=op.f("pk_notice_mails")),
    )
    op.create_index(
        "ix_notice_mails_due", "notice_mails", ["next_attempt_at"], postgresql_where=sa.text("failed_at IS NULL")
    )


def downgrade() -> None:
    op.drop_table("notice_mails")
    op.drop_table("notices")
