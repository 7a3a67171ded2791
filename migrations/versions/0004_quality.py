"""How well decisions are made: audits, second opinions, appeals; where images are from, and which are alike."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NOW = sa.text("now()")
NONE = sa.text("0")


def words(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, length=40)


def upgrade() -> None:
    for share in ("second_opinion_share", "audit_share"):
        op.execute(
            f"ALTER TABLE tenants ADD COLUMN {share} double precision DEFAULT 0 NOT NULL "
            f"CONSTRAINT ck_tenants_{share}_is_a_share CHECK (0 <= {share} AND {share} <= 1)"
        )
    op.add_column("images", sa.Column("provenance", postgresql.JSONB(none_as_null=True), nullable=True))
    _widen_cases()
    _widen_reviews()
    _hashes()
    op.create_table(
        "explanation_requests",
        sa.Column("verdict_id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=NONE, nullable=False),
        sa.Column("fence", sa.Integer(), server_default=NONE, nullable=False),
        sa.Column("next_attempt_at", TIME, server_default=NOW, nullable=False),
        sa.Column("offered_until", TIME, nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("failed_at", TIME, nullable=True),
        sa.Column("failure_detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name=op.f("fk_explanation_requests_case_id")),
        sa.ForeignKeyConstraint(["verdict_id"], ["verdicts.id"], name=op.f("fk_explanation_requests_verdict_id")),
        sa.PrimaryKeyConstraint("verdict_id", name=op.f("pk_explanation_requests")),
    )
    op.create_index(op.f("ix_explanation_requests_case_id"), "explanation_requests", ["case_id"])


def _widen_cases() -> None:
    op.add_column("cases", sa.Column("policy_label", words("label", "real", "fake"), nullable=True))
    op.add_column("cases", sa.Column("category", sa.Text(), nullable=True))
    op.add_column("cases", sa.Column("second", sa.Boolean(), nullable=True))
    op.add_column("cases", sa.Column("second_probability", sa.Float(), nullable=True))
    op.add_column("cases", sa.Column("audit_probability", sa.Float(), nullable=True))
    op.add_column("cases", sa.Column("appeal_message", sa.Text(), nullable=True))
    # The policy_label of what was decided before is filled in by 0005, when nobody has to wait for this any more.


def _widen_reviews() -> None:
    # Until now nothing but what was uncertain, unreadable or appealed was reviewed; which of them, nobody wrote down.
    # The default stays: an api of before, which knows nothing of reasons, answers until it is replaced.
    op.execute("ALTER TABLE reviews ADD COLUMN reason varchar(40) DEFAULT 'uncertain' NOT NULL")
    op.add_column("reviews", sa.Column("message", sa.Text(), nullable=True))
    op.add_column("reviews", sa.Column("disturbing", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def _hashes() -> None:
    op.create_table(
        "image_hashes",
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("pdq", sa.LargeBinary(), nullable=False),
        sa.Column("quality", sa.Integer(), nullable=False),
        sa.Column("bands", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_image_hashes_image_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_image_hashes_tenant_id")),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_image_hashes")),
    )
    op.create_index(
        "ix_image_hashes_bands",
        "image_hashes",
        ["bands"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    op.create_index(op.f("ix_image_hashes_tenant_id"), "image_hashes", ["tenant_id"])
    op.create_table(
        "similar_images",
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("other_id", sa.Uuid(), nullable=False),
        sa.Column("distance", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_similar_images_image_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["other_id"], ["images.id"], name=op.f("fk_similar_images_other_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "other_id", name=op.f("pk_similar_images")),
    )
    op.create_index(op.f("ix_similar_images_other_id"), "similar_images", ["other_id"])


def downgrade() -> None:
    op.drop_table("explanation_requests")
    op.drop_table("similar_images")
    op.drop_table("image_hashes")
    for column in ("disturbing", "message", "reason"):
        op.drop_column("reviews", column)
    for column in ("appeal_message", "audit_probability", "second_probability", "second", "category", "policy_label"):
        op.drop_column("cases", column)
    op.drop_column("images", "provenance")
    op.drop_column("tenants", "audit_share")
    op.drop_column("tenants", "second_opinion_share")
