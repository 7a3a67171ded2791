"""The kinds of case that have waited longest are read from an index instead of sorting all kinds for each count.

It is built while the service runs, outside a transaction; an upgrade that was stopped goes on where it is run again.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


INDEX, TABLE = "ix_queue_summaries_oldest", "queue_summaries"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.drop_index(INDEX, TABLE, if_exists=True, postgresql_concurrently=True)
        op.create_index(INDEX, TABLE, ["oldest"], postgresql_concurrently=True, if_not_exists=True)
        op.execute("SET lock_timeout = '5s'")


def downgrade() -> None:
    op.drop_index(INDEX, TABLE)
