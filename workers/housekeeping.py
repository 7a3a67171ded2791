"""Small chores, once a minute: counts of the queue, runs that wait, bytes of erased images, what is old or orphaned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial

from moderation import backlog, erasure, idempotency, inbound, originals, orphans, retention, submissions
from moderation.db import transaction
from moderation.retraining import runs, tombstones
from moderation.settings import settings
from moderation.storage import Storage
from workers.celery_app import CLEAN_UP, app

log = logging.getLogger(__name__)


@app.task(name=CLEAN_UP)
def clean_up() -> None:
    """Do every chore; each is safe to repeat, and one that fails keeps none of the others from being done.

    Raises what the first of those raised, when all were tried; the log has each.
    """
    failed: list[Exception] = []
    for name, chore in _chores(Storage(settings())).items():
        try:
            log.info("%s: %s", name, chore())
        except Exception as error:
            log.exception("%s failed", name)
            failed.append(error)
    if failed:
        raise failed[0]


def _chores(store: Storage) -> dict[str, Callable[[], object]]:
    """By what each gives back. Those that need the store come last, for it may be away."""
    return {
        "queue changes taken up": _queue_changes,
        "runs that wait": _waiting_runs,
        "answers forgotten": _old_answers,
        "webhook ids forgotten": _old_webhooks,
        "older erasures finished": erasure.finish_older,
        "past their time": _past_their_time,
        "images purged": partial(_purge, store),
        "uploads forgotten": partial(submissions.forget_uploads, store),
        "orphans deleted": partial(_sweep().turn, store),
    }


def _queue_changes() -> int:
    with transaction() as session:
        return backlog.summarise(session)


def _waiting_runs() -> int:
    with transaction() as session:
        return runs.tell_of_kept(session)


def _old_answers() -> int:
    with transaction() as session:
        return idempotency.forget_expired(session)


def _old_webhooks() -> int:
    with transaction() as session:
        return inbound.forget_received(session)


def _past_their_time() -> str:
    return ", ".join(f"{count} {kept}" for kept, count in retention.sweep().items())


def _purge(store: Storage) -> int:
    """What training runs know of erased images, and then their bytes; how many images are gone now."""
    doomed = originals.doomed()
    return originals.purge(store, doomed) if tombstones.place(store, doomed) else 0


@cache
def _sweep() -> orphans.Sweep:
    """This process's way round the bucket, which goes on where it was a minute ago."""
    return orphans.Sweep.anywhere()
