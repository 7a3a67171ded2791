"""Small chores, once a minute: the queue's counts, bytes of erased images, answers older than a day, old uploads."""

from __future__ import annotations

import logging

from moderation import backlog, idempotency, originals, sources, submissions
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from workers.celery_app import CLEAN_UP, app

log = logging.getLogger(__name__)


@app.task(name=CLEAN_UP)
def clean_up() -> None:
    """Do every chore; each is safe to repeat."""
    with transaction() as session:
        changes = backlog.summarise(session)
    with transaction() as session:
        answers = idempotency.forget_expired(session)
        webhooks = sources.forget_received(session)
    # Last, for the store may be away.
    store = Storage(settings())
    purged = originals.purge(store)
    uploads = submissions.forget_uploads(store)
    log.info("purged %d images, %d uploads, %d answers, %d webhook ids", purged, uploads, answers, webhooks)
    log.debug("took up %d changes of the queue", changes)
