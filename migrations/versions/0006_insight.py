"""What the insight and threshold pages read: outcomes, audits, answers, and who changed a policy when.

And what the pages of failed cases and of deliveries read, newest first.

The indexes are built while the service runs, outside a transaction; an upgrade that was stopped goes on where it is run
again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Everything that is counted, so that no case is read for it. A case comes in when it is settled, and not before.
COUNTED = (
    *("status", "decided_by", "label", "policy_label", "settled_at", "score", "category", "model_version_id"),
    *("audit_probability", "verdict_id"),
)
ENTERED = "after ->> 'status' = 'in_review' AND before ->> 'status' <> 'in_review'"
LEFT = "before ->> 'status' = 'in_review' AND after ->> 'status' <> 'in_review'"
# Name, table, columns, which rows, what else is in it.
INDEXES: tuple[tuple[str, str, tuple[str, ...], str | None, tuple[str, ...]], ...] = (
    ("ix_cases_outcomes", "cases", ("tenant_id", "created_at"), "settled_at IS NOT NULL", COUNTED),
    ("ix_cases_under_way", "cases", ("tenant_id", "created_at"), "settled_at IS NULL", ()),
    ("ix_cases_audited", "cases", ("tenant_id", "created_at"), "audit_probability IS NOT NULL", ()),
    ("ix_reviews_settled", "reviews", ("tenant_id", "settled_at"), "settled_at IS NOT NULL", ()),
    ("ix_events_review_entered", "events", ("tenant_id", "created_at"), ENTERED, ("case_id",)),
    ("ix_events_review_left", "events", ("tenant_id", "created_at"), LEFT, ("case_id",)),
    ("ix_events_policy_changed", "events", ("tenant_id", "created_at"), "type = 'policy.changed'", ()),
    ("ix_cases_failed", "cases", ("tenant_id", "id"), "status = 'failed'", ("failure_reason", "settled_at")),
    ("ix_deliveries_listed", "deliveries", ("endpoint_id", "id"), None, ()),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Building waits for whoever reads an old state, and nobody waits for it.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        for name, table, columns, where, include in INDEXES:
            # One whose building was stopped is there and of no use.
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name,
                table,
                list(columns),
                postgresql_where=sa.text(where) if where else None,
                postgresql_include=list(include) or None,
                postgresql_concurrently=True,
                if_not_exists=True,
            )
        op.execute("SET lock_timeout = '5s'")
        op.execute("SET statement_timeout = '5min'")


def downgrade() -> None:
    for name, table, *_ in reversed(INDEXES):
        op.drop_index(name, table_name=table)
