"""The database brought up to date: its schema, and secrets that an older Telltale left unencrypted."""

from __future__ import annotations

import migrations
from moderation import keyring, sealing
from moderation.db import transaction
from moderation.settings import settings


def bring_up_to_date() -> None:
    """Migrate and encrypt; safe to repeat, and for several machines at once.

    Raises ConfigurationError: before anything is changed where there is no key, else where stored secrets need another.
    """
    sealing.key_ids()
    migrations.upgrade(settings().database_url)
    with transaction() as session:
        keyring.seal_plain(session)
        keyring.check(session)
