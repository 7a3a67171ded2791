"""Mails notices to the people whom they concern: one attempt a task; when the next one is due stands in Postgres."""

from __future__ import annotations

import logging
from functools import cache
from uuid import UUID

from moderation import mail
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from workers.celery_app import MAIL, app

log = logging.getLogger(__name__)


@app.task(name=MAIL)
def send(notice_id: str) -> None:
    """Mail one notice. No session is open while the mail server is spoken to."""
    with transaction() as session:
        letter = mail.take(session, UUID(notice_id))
    if letter is None:
        return
    outcome = mail.attempt(letter, _store(), settings())
    with transaction() as session:
        mail.settle(session, letter, outcome)
    if outcome.error is not None:
        # To whom is nobody's business, and servers repeat it.
        log.warning("notice %s was not mailed: %s", notice_id, outcome.error.replace(letter.to, "…"))


@cache
def _store() -> Storage:
    return Storage(settings())
