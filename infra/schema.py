"""The database brought up to date: its schema, and secrets that an older Telltale left unencrypted."""

from __future__ import annotations

import migrations
from moderation import keyring, sealing
from moderation.db import transaction
from moderation.schema import refuse_half_restored
from moderation.settings import settings


def bring_up_to_date(*, restoring: bool = False) -> None:
    """Migrate and encrypt; safe to repeat, and for several machines at once. Only a restore may do it within one.

    Raises ConfigurationError: before anything is changed where there is no key, or where a restore is unfinished; else
    where stored secrets need another key.
    """
    sealing.key_ids()
    if not restoring:
        refuse_half_restored()
    migrations.upgrade(settings().database_url)
    with transaction() as session:
        keyring.seal_plain(session)
        keyring.check(session)
