"""What is put aside is counted from an index alone: for each count of the queue, as many rows were read as are on hold.

It is built while the service runs, outside a transaction, and the one it replaces goes after it; an upgrade that was
stopped goes on where it is run again.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

FORMER, INDEX, TABLE = "ix_cases_held", "ix_cases_put_aside", "cases"
PUT_ASIDE = "status = 'in_review' AND answer_due IS NULL AND held_until IS NOT NULL"
# What a case counts as, and its place in the queue.
SEEN = (
    *("tenant_id", "id", "priority", "score", "blind", "review_reason", "restricted", "escalated_at", "assigned_to"),
    *("category", "model_version_id", "settled_at"),
)


def upgrade() -> None:
    _replace(FORMER, INDEX, SEEN)


def downgrade() -> None:
    _replace(INDEX, FORMER, ())


def _replace(former: str, index: str, include: Sequence[str]) -> None:
    with op.get_context().autocommit_block():
        # Building waits for whoever reads an old state, and nobody waits for it.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        # One whose building was stopped is there and of no use.
        op.drop_index(index, TABLE, if_exists=True, postgresql_concurrently=True)
        op.create_index(
            index,
            TABLE,
            ["held_until"],
            postgresql_where=PUT_ASIDE,
            postgresql_include=list(include),
            postgresql_concurrently=True,
            if_not_exists=True,
        )
        op.drop_index(former, TABLE, if_exists=True, postgresql_concurrently=True)
        op.execute("SET lock_timeout = '5s'")
        op.execute("SET statement_timeout = '5min'")
