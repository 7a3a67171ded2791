"""The review queue: its indexes, and what its counts are read from."""

from __future__ import annotations

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Filled in the next commit."""


def downgrade() -> None:
    """Filled in the next commit."""
