"""Reviews: claims, answers, renditions, and what the review queue is ordered by (0005 has its indexes)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def words(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, length=40)


def upgrade() -> None:
    op.execute(
        "ALTER TABLE tenants ADD COLUMN blind_share double precision DEFAULT 0.1 NOT NULL "
        "CONSTRAINT ck_tenants_blind_share_is_a_share CHECK (0 <= blind_share AND blind_share <= 1)"
    )
    op.add_column("images", sa.Column("rendition_key", sa.Text(), nullable=True))
    _widen_cases()
    op.create_table(
        "claims",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("claimed_at", TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("lease_until", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column(
            "end",
            words("claimend", "answered", "skipped", "held", "escalated", "reassigned", "released", "expired"),
            nullable=True,
        ),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name=op.f("fk_claims_case_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_claims_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claims")),
    )
    op.create_index("uq_claims_live", "claims", ["case_id"], unique=True, postgresql_where="ended_at IS NULL")
    op.create_index("ix_claims_of_user", "claims", ["user_id", "case_id"])
    op.create_index(op.f("ix_claims_case_id"), "claims", ["case_id"])
    op.create_table(
        "reviews",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("verdict_id", sa.Uuid(), nullable=True),
        sa.Column("answer", words("answer", "real", "fake", "cannot_tell"), nullable=False),
        sa.Column("artifacts", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("settled_at", TIME, nullable=True),
        sa.Column("undone_at", TIME, nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_reviews_tenant_id")),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name=op.f("fk_reviews_case_id")),
        sa.ForeignKeyConstraint(["claim_id"], ["claims.id"], name=op.f("fk_reviews_claim_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_reviews_user_id")),
        sa.ForeignKeyConstraint(["verdict_id"], ["verdicts.id"], name=op.f("fk_reviews_verdict_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    op.create_index(
        "uq_reviews_pending",
        "reviews",
        ["case_id"],
        unique=True,
        postgresql_where="settled_at IS NULL AND undone_at IS NULL",
    )
    op.create_index("ix_reviews_of_user", "reviews", ["user_id", "created_at"])
    op.create_index(op.f("ix_reviews_case_id"), "reviews", ["case_id"])
    op.create_index(op.f("ix_reviews_tenant_id"), "reviews", ["tenant_id"])
    op.create_table(
        "reviewed_sentences",
        sa.Column("review_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("said", sa.Text(), nullable=True),
        sa.Column("grade", words("grade", "right", "wrong", "unclear"), nullable=True),
        sa.Column("written", sa.Text(), nullable=True),
        sa.CheckConstraint("(said IS NULL) = (grade IS NULL)", name="graded_where_said"),
        sa.CheckConstraint("said IS NOT NULL OR written IS NOT NULL", name="says_something"),
        sa.ForeignKeyConstraint(
            ["review_id"], ["reviews.id"], name=op.f("fk_reviewed_sentences_review_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("review_id", "position", name=op.f("pk_reviewed_sentences")),
    )


def _widen_cases() -> None:
    op.add_column("cases", sa.Column("score", sa.Float(), nullable=True))
    op.add_column("cases", sa.Column("blind", sa.Boolean(), nullable=True))
    op.add_column("cases", sa.Column("blind_probability", sa.Float(), nullable=True))
    op.add_column("cases", sa.Column("held_until", TIME, nullable=True))
    op.add_column("cases", sa.Column("escalated_at", TIME, nullable=True))
    # With the column, and not after it: of a column that is all NULL there is nothing to check.
    op.execute(
        "-- squawk-ignore adding-foreign-key-constraint\n"
        "ALTER TABLE cases ADD COLUMN assigned_to uuid CONSTRAINT fk_cases_assigned_to REFERENCES users (id)"
    )
    op.add_column("cases", sa.Column("answer_due", TIME, nullable=True))
    op.execute(
        "UPDATE cases SET score = verdicts.p_fake FROM verdicts "
        "WHERE verdicts.id = cases.verdict_id AND cases.status = 'in_review' AND verdicts.p_fake <> 'NaN'"
    )


def downgrade() -> None:
    op.drop_table("reviewed_sentences")
    op.drop_table("reviews")
    op.drop_table("claims")
    for column in ("answer_due", "assigned_to", "escalated_at", "held_until", "blind_probability", "blind", "score"):
        op.drop_column("cases", column)
    op.drop_column("images", "rendition_key")
    op.drop_column("tenants", "blind_share")
