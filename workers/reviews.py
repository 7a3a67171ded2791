"""Puts moderators' answers into effect, each once its ten seconds are over."""

from __future__ import annotations

from uuid import UUID

from moderation import reviews
from workers.celery_app import SETTLE, app


@app.task(name=SETTLE)
def settle(case_id: str) -> None:
    """Decide one case as it was answered. Running it twice is harmless."""
    reviews.settle(UUID(case_id))
