"""The kinds of case that have waited longest are read from an index instead of sorting all kinds for each count."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Some thousand rows that only housekeeping writes: nobody waits for this.
    op.create_index(op.f("ix_queue_summaries_oldest"), "queue_summaries", ["oldest"])


def downgrade() -> None:
    op.drop_index(op.f("ix_queue_summaries_oldest"), "queue_summaries")
