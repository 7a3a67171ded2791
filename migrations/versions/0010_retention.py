"""How long a platform's data is kept, what of it has gone, and the one way in which an event may say less than it did.

Events stay append only: a change passes only where it takes words away, and only of a case of which the words are to
go (`cases.forgotten_at`, or its verdict's). The index is built first, while the
service runs and outside a transaction, so that an upgrade that was stopped in the middle can be run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
DAYS = ("keep_images_days", "keep_verdicts_days", "keep_events_days", "keep_restricted_days", "appeal_days")
KEPT = sa.Enum("images", "verdicts", "events", name="kept", native_enum=False, length=40)
SUBJECT = "ix_submissions_subject"
WITH_SUBJECT = "(metadata ->> 'subject') IS NOT NULL"

LESS = "'{before,after,data,request_id}'::text[]"
REDACTION = f"""
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF to_jsonb(NEW) - {LESS} = to_jsonb(OLD) - {LESS}
           AND says_less(to_jsonb(NEW.before), to_jsonb(OLD.before))
           AND says_less(to_jsonb(NEW.after), to_jsonb(OLD.after))
           AND says_less(to_jsonb(NEW.data), to_jsonb(OLD.data))
           AND coalesce(NEW.request_id = OLD.request_id, NEW.request_id IS NULL)
           AND EXISTS (
               SELECT FROM cases
               WHERE id = OLD.case_id AND (forgotten_at IS NOT NULL OR verdict_forgotten_at IS NOT NULL)
           )
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the table % is append only', TG_TABLE_NAME;
END $$
"""
SAYS_LESS = """
CREATE FUNCTION says_less(now jsonb, was jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT now IS NULL OR coalesce(jsonb_strip_nulls(now) <@ was, false)
$$
"""
AS_BEFORE = """
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the table % is append only', TG_TABLE_NAME;
END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Building waits for whoever reads an old state, and nobody waits for it. One that was stopped is of no use.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        op.drop_index(SUBJECT, table_name="submissions", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            SUBJECT,
            "submissions",
            ["tenant_id", sa.text("(metadata ->> 'subject')")],
            postgresql_where=WITH_SUBJECT,
            postgresql_concurrently=True,
        )
        op.execute("SET lock_timeout = '5s'")
        op.execute("SET statement_timeout = '5min'")
    for name in DAYS:
        op.add_column("tenants", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("tenants", sa.Column("statement_defaults", postgresql.JSONB(none_as_null=True), nullable=True))
    op.add_column("images", sa.Column("expired_at", TIME, nullable=True))
    op.add_column("images", sa.Column("forgotten_at", TIME, nullable=True))
    for name in ("verdict_forgotten_at", "forgotten_at"):
        op.add_column("cases", sa.Column(name, TIME, nullable=True))
    op.add_column("uploads", sa.Column("image_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_uploads_image_id"), "uploads", "images", ["image_id"], ["id"])
    op.create_index(op.f("ix_uploads_image_id"), "uploads", ["image_id"])
    op.create_table(
        "retention_passes",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("kept", KEPT, nullable=False),
        sa.Column("after_id", sa.Uuid(), nullable=True),
        sa.Column("gone", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("held", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_retention_passes_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "kept", name=op.f("pk_retention_passes")),
    )
    op.execute(SAYS_LESS)
    op.execute(REDACTION)


def downgrade() -> None:
    op.drop_index(SUBJECT, table_name="submissions")
    op.execute(AS_BEFORE)
    op.execute("DROP FUNCTION says_less(jsonb, jsonb)")
    op.drop_table("retention_passes")
    op.drop_index(op.f("ix_uploads_image_id"), table_name="uploads")
    op.drop_column("uploads", "image_id")
    for name in ("forgotten_at", "verdict_forgotten_at"):
        op.drop_column("cases", name)
    for name in ("forgotten_at", "expired_at"):
        op.drop_column("images", name)
    for name in ("statement_defaults", *DAYS):
        op.drop_column("tenants", name)
