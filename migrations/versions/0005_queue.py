"""The review queue: its indexes, and what its counts are read from.

Cases of before are filled in, and the indexes built, while the service runs, outside a transaction: whoever reads cases
waits for no more than a column to be added. Everything up to there may be done again, so that an upgrade that was
stopped in the middle goes on where it is run again.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ANSWERABLE = "status = 'in_review' AND answer_due IS NULL"
SCORE_HIDDEN = "blind OR review_reason = 'appeal' OR review_reason = 'audit'"
CERTAINTY = f"""
CASE
    WHEN {SCORE_HIDDEN} THEN (uuid_hash(id) & 1023)::float8 / 4096::float8
    ELSE abs(COALESCE(score, 0.5::float8) - 0.5::float8)
END"""
PLACE = (sa.text("(-priority)"), sa.text(f"({CERTAINTY})"), "settled_at", "id")
SEEN = (
    *("priority", "score", "blind", "review_reason", "restricted", "escalated_at", "held_until", "assigned_to"),
    *("category", "model_version_id"),
)
QUEUES = {
    "ix_cases_review_queue": None,
    "ix_cases_queue_by_reason": "review_reason",
    "ix_cases_queue_by_category": "category",
    "ix_cases_queue_by_version": "model_version_id",
}
SMALL = {
    "ix_cases_queue_by_age": (("tenant_id", "settled_at"), ANSWERABLE),
    "ix_cases_assigned": (("assigned_to",), f"{ANSWERABLE} AND assigned_to IS NOT NULL"),
    "ix_cases_held": (("held_until",), f"{ANSWERABLE} AND held_until IS NOT NULL"),
    "ix_cases_answered": (("answer_due",), "answer_due IS NOT NULL"),
}

# What cases of before, decided ones too, have in their verdict and not in themselves, and what the policy said of them.
# In batches, each a transaction: whoever writes a case waits for no more than its batch.
BATCH = 5000
FILL_CASES = f"""
DO $$
DECLARE
    done uuid := '00000000-0000-0000-0000-000000000000';
    last uuid;
BEGIN
    LOOP
        SELECT id INTO last
        FROM (SELECT id FROM cases WHERE id > done ORDER BY id LIMIT {BATCH}) AS batch ORDER BY id DESC LIMIT 1;
        EXIT WHEN last IS NULL;
        UPDATE cases
        SET model_version_id = verdicts.model_version_id,
            score = coalesce(cases.score, nullif(verdicts.p_fake, 'NaN')),
            policy_label = coalesce(cases.policy_label, CASE WHEN cases.decided_by = 'policy' THEN cases.label END)
        FROM verdicts
        WHERE verdicts.id = cases.verdict_id AND cases.model_version_id IS NULL
              AND cases.id > done AND cases.id <= last;
        COMMIT;
        done := last;
    END LOOP;
END
$$
"""

# What a case counts as; a change of any of it is a change of the queue.
KIND = "tenant_id, for_leads, priority, review_reason, category, model_version_id"
SCORE = "CASE WHEN {0}blind OR {0}review_reason = 'appeal' OR {0}review_reason = 'audit' THEN NULL ELSE {0}score END"
KIND_OF = (
    "{0}tenant_id, {0}restricted OR {0}escalated_at IS NOT NULL, {0}priority, {0}review_reason, {0}category, "
    "{0}model_version_id"
)
COUNTED = f"{KIND_OF}, {SCORE}, {{0}}settled_at"
IN_QUEUE = "{0}status = 'in_review' AND {0}answer_due IS NULL"
FUNCTION = f"""
CREATE FUNCTION note_queue_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND {IN_QUEUE.format("OLD.")} THEN
        INSERT INTO queue_changes ({KIND}, score, settled_at, amount) SELECT {COUNTED.format("OLD.")}, -1;
    END IF;
    IF TG_OP <> 'DELETE' AND {IN_QUEUE.format("NEW.")} THEN
        INSERT INTO queue_changes ({KIND}, score, settled_at, amount) SELECT {COUNTED.format("NEW.")}, 1;
    END IF;
    RETURN NULL;
END
$$
"""
CHANGED = (
    f"ROW({IN_QUEUE.format('OLD.')}, {COUNTED.format('OLD.')}) "
    f"IS DISTINCT FROM ROW({IN_QUEUE.format('NEW.')}, {COUNTED.format('NEW.')})"
)
TRIGGERS = (
    ("INSERT", "insert", "NEW.status = 'in_review'"),
    ("DELETE", "delete", "OLD.status = 'in_review'"),
    ("UPDATE", "update", f"(OLD.status = 'in_review' OR NEW.status = 'in_review') AND {CHANGED}"),
)
# Under the lock that the triggers take: nothing changes in between.
FILL = f"""
INSERT INTO queue_summaries ({KIND}, count, oldest, since, scores, ranked)
SELECT {KIND}, count(*), min(settled_at), array_agg(settled_at ORDER BY settled_at, id),
       array_agg(score ORDER BY settled_at, id),
       coalesce(array_agg(score ORDER BY score) FILTER (WHERE score IS NOT NULL), '{{}}')
FROM (SELECT id, {COUNTED.format("cases.")} FROM cases WHERE {IN_QUEUE.format("cases.")})
     AS queue(id, {KIND}, score, settled_at)
GROUP BY {KIND}
"""


def upgrade() -> None:
    # With the column, and not after it: of a column that is all NULL there is nothing to check.
    op.execute(
        "-- squawk-ignore adding-foreign-key-constraint\n"
        "ALTER TABLE cases ADD COLUMN IF NOT EXISTS model_version_id uuid "
        "CONSTRAINT fk_cases_model_version_id REFERENCES model_versions (id)"
    )
    with op.get_context().autocommit_block():
        # Building waits for whoever reads an old state, and nobody waits for it.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        op.execute(FILL_CASES)
        _indexes()
        op.execute("SET lock_timeout = '5s'")
        op.execute("SET statement_timeout = '5min'")
    _counts()


def _indexes() -> None:
    for name, first in QUEUES.items():
        in_order = ["tenant_id", *([first] if first else []), *PLACE]
        include = [column for column in SEEN if column != first]
        _index(name, in_order, ANSWERABLE, include)
    for name, (columns, where) in SMALL.items():
        _index(name, columns, where)


def _index(name: str, columns: Sequence[str | sa.TextClause], where: str, include: list[str] | None = None) -> None:
    # One whose building was stopped is there and of no use.
    op.drop_index(name, "cases", if_exists=True, postgresql_concurrently=True)
    op.create_index(
        name,
        "cases",
        list(columns),
        postgresql_where=where,
        postgresql_include=include,
        postgresql_concurrently=True,
        if_not_exists=True,
    )


def _counts() -> None:
    kind = (
        ("tenant_id", sa.Uuid(), False),
        ("for_leads", sa.Boolean(), False),
        ("priority", sa.Integer(), False),
        ("review_reason", sa.String(40), True),
        ("category", sa.Text(), True),
        ("model_version_id", sa.Uuid(), True),
    )
    op.create_table(
        "queue_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *(sa.Column(name, type_, nullable=nullable) for name, type_, nullable in kind),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("settled_at", TIME, nullable=False),
        sa.Column("amount", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_changes")),
    )
    op.create_table(
        "queue_summaries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *(sa.Column(name, type_, nullable=nullable) for name, type_, nullable in kind),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("oldest", TIME, nullable=False),
        sa.Column("since", postgresql.ARRAY(TIME), nullable=False),
        sa.Column("scores", postgresql.ARRAY(sa.Float()), nullable=False),
        sa.Column("ranked", postgresql.ARRAY(sa.Float()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_summaries")),
    )
    op.create_index(op.f("ix_queue_summaries_tenant_id"), "queue_summaries", ["tenant_id"])
    op.execute(FUNCTION)
    for event, name, condition in TRIGGERS:
        op.execute(
            f"CREATE TRIGGER note_queue_{name} AFTER {event} ON cases FOR EACH ROW WHEN ({condition}) "
            "EXECUTE FUNCTION note_queue_change()"
        )
    op.execute(FILL)


def downgrade() -> None:
    for _, name, _ in TRIGGERS:
        op.execute(f"DROP TRIGGER note_queue_{name} ON cases")
    op.execute("DROP FUNCTION note_queue_change()")
    op.drop_table("queue_summaries")
    op.drop_table("queue_changes")
    for name in (*QUEUES, *SMALL):
        op.drop_index(name, "cases", if_exists=True)
    op.drop_column("cases", "model_version_id")
