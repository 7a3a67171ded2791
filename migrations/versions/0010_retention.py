"""How long a platform's data is kept, what of it has gone, and the one way in which an event may say less than it did.

Events stay append only: a change passes only where it takes words away, and only of a case of which the words are to
go (`cases.forgotten_at`, or its verdict's).

The service runs on meanwhile, and whoever takes an image in or judges one holds locks on most of these tables. So each
table is changed in a commit of its own, waiting with nothing in hand; what touches two of them takes them in the order
in which the service does. Everything may be done again, so that an upgrade, or its way back, that was stopped in the
middle goes on where it is run again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TIME = "timestamp with time zone"
DAYS = ("keep_images_days", "keep_verdicts_days", "keep_events_days", "keep_restricted_days", "appeal_days")
TENANTS = (*((name, "integer") for name in DAYS), ("statement_defaults", "jsonb"))
KEPT = sa.Enum("images", "verdicts", "events", name="kept", native_enum=False, length=40)
# Of a subject that was sent before there was a limit, its beginning: an entry of an index has one, too.
SUBJECT = sa.text("left(metadata ->> 'subject', 255)")
# Name, table, columns, which rows. For each verdict that goes, its cases and reviews are looked for.
INDEXES: tuple[tuple[str, str, tuple[Any, ...], str | None], ...] = (
    ("ix_submissions_subject", "submissions", ("tenant_id", SUBJECT), "(metadata ->> 'subject') IS NOT NULL"),
    ("ix_cases_verdict_id", "cases", ("verdict_id",), "verdict_id IS NOT NULL"),
    ("ix_reviews_verdict_id", "reviews", ("verdict_id",), "verdict_id IS NOT NULL"),
    ("ix_uploads_image_id", "uploads", ("image_id",), None),
)
# Whoever takes an uploaded image in writes the image first. A column that is all NULL has nothing to check.
ADD_IMAGE = """
DO $$
BEGIN
    LOCK TABLE images IN SHARE ROW EXCLUSIVE MODE;
    ALTER TABLE uploads ADD COLUMN IF NOT EXISTS image_id uuid
        CONSTRAINT fk_uploads_image_id REFERENCES images (id);
END $$
"""
DROP_IMAGE = """
DO $$
BEGIN
    LOCK TABLE images IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE uploads DROP COLUMN IF EXISTS image_id;
END $$
"""
# Whoever goes on with a pass reads the tenant first.
DROP_PASSES = """
DO $$
BEGIN
    LOCK TABLE tenants IN ACCESS EXCLUSIVE MODE;
    DROP TABLE IF EXISTS retention_passes;
END $$
"""

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
CREATE OR REPLACE FUNCTION says_less(now jsonb, was jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
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
        _add("tenants", TENANTS)
        _add("images", (("expired_at", TIME), ("forgotten_at", TIME)))
        _add("cases", (("verdict_forgotten_at", TIME), ("forgotten_at", TIME)))
        op.execute(ADD_IMAGE)
        _passes()
        # Building waits for whoever reads an old state, and nobody waits for it.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        for name, table, columns, where in INDEXES:
            # One whose building was stopped is there and of no use.
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name,
                table,
                list(columns),
                postgresql_where=sa.text(where) if where else None,
                postgresql_concurrently=True,
                if_not_exists=True,
            )
        op.execute("SET lock_timeout = '5s'")
        op.execute("SET statement_timeout = '5min'")
    op.execute(SAYS_LESS)
    op.execute(REDACTION)


def downgrade() -> None:
    op.execute(AS_BEFORE)
    op.execute("DROP FUNCTION IF EXISTS says_less(jsonb, jsonb)")
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        for name, table, *_ in reversed(INDEXES):
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.execute("SET lock_timeout = '5s'")
        op.execute(DROP_PASSES)
        op.execute(DROP_IMAGE)
        _drop("cases", ("forgotten_at", "verdict_forgotten_at"))
        _drop("images", ("forgotten_at", "expired_at"))
        _drop("tenants", (name for name, _ in TENANTS))


def _add(table: str, columns: Iterable[tuple[str, str]]) -> None:
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in columns)
    op.execute(f"ALTER TABLE {table} {added}")


def _drop(table: str, columns: Iterable[str]) -> None:
    op.execute(f"ALTER TABLE {table} {', '.join(f'DROP COLUMN IF EXISTS {name}' for name in columns)}")


def _passes() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "retention_passes",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("kept", KEPT, nullable=False),
        sa.Column("after_id", sa.Uuid(), nullable=True),
        sa.Column("gone", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("held", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", time, server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", time, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_retention_passes_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "kept", name=op.f("pk_retention_passes")),
        if_not_exists=True,
    )
