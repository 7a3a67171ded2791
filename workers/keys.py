"""Refuses to start a worker that could not open the secrets it needs: those that sign, and those that read buckets.

Imported by the roles that need them, fetching and delivery.
"""

from __future__ import annotations

import logging

from celery.signals import worker_init

from moderation import keyring
from moderation.db import transaction
from moderation.errors import ConfigurationError

log = logging.getLogger(__name__)


@worker_init.connect
def refuse_without_keys(**_: object) -> None:
    """End this process where stored secrets need a key that it does not have."""
    try:
        with transaction() as session:
            keyring.check(session)
    except ConfigurationError as error:
        log.critical("this worker cannot start: %s", error)
        raise SystemExit(1) from error
