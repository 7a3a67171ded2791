"""Refuses to start a worker that could not open the secrets it needs: those that sign, and those that read buckets.

Imported by the roles that need them, fetching and delivery.
"""

from __future__ import annotations

from celery.signals import worker_init

from moderation import keyring
from moderation.db import transaction
from moderation.errors import ConfigurationError
from workers.celery_app import starting


@worker_init.connect
def refuse_without_keys(**_: object) -> None:
    """End this process where stored secrets need a key that it does not have, or where that cannot be known."""
    with starting(ConfigurationError), transaction() as session:
        keyring.check(session)
