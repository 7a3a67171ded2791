"""Small chores, once a minute: counts of the queue, runs that wait, bytes of erased images, what is old or orphaned."""

from __future__ import annotations

import logging
from functools import cache

from moderation import backlog, erasure, idempotency, originals, orphans, retention, sources, submissions
from moderation.db import transaction
from moderation.retraining import runs, tombstones
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
        runs.tell_of_kept(session)
    with transaction() as session:
        answers = idempotency.forget_expired(session)
        webhooks = sources.forget_received(session)
    erasure.finish_older()
    gone = retention.sweep()
    # Last, for the store may be away.
    store = Storage(settings())
    purged = _purge(store)
    uploads = submissions.forget_uploads(store)
    swept = _sweep().turn(store)
    log.info("purged %d images, %d uploads, %d answers, %d webhook ids", purged, uploads, answers, webhooks)
    log.info("swept %d objects that no row speaks of", swept)
    log.info("of %s something was past its time", ", ".join(f"{count} {kept}" for kept, count in gone.items()))
    log.debug("took up %d changes of the queue", changes)


def _purge(store: Storage) -> int:
    """What training runs know of erased images, and then their bytes; how many images are gone now."""
    doomed = originals.doomed()
    return originals.purge(store, doomed) if tombstones.place(store, doomed) else 0


@cache
def _sweep() -> orphans.Sweep:
    """This process's way round the bucket, which goes on where it was a minute ago."""
    return orphans.Sweep.anywhere()
