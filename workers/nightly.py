"""Asks for the night's training run. Beat sends it at the set hour; however often it comes, there is one a night."""

from __future__ import annotations

from moderation.db import transaction
from moderation.retraining import runs
from moderation.settings import settings
from workers.celery_app import RETRAIN, app


@app.task(name=RETRAIN)
def retrain() -> None:
    """Write the row that the retraining worker looks for; nothing where nights were turned off since it was sent."""
    hour = settings().retrain_hour
    if hour is None:
        return
    with transaction() as session:
        runs.ask_for_the_night(session, settings().retrain_timezone, hour)
