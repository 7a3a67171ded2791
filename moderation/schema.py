"""Whether the database is fit to be used: of the schema that this code was written for, and not half restored.

An older schema has not what is asked of it. A newer one will do, as it has while a deployment is being upgraded:
migrations only add (docs/upgrades.md).
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from moderation.db import glance
from moderation.errors import ConfigurationError

# The migration that this code needs, and with it all before: the newest (a test holds it to that).
NEEDED = "0012"
# The table that is there while a backup is being restored, and says which. Until it goes, erased images and revoked
# keys may be as they were when the backup was made.
UNFINISHED_RESTORE = "unfinished_restore"
HALF_RESTORED = "The database is not wholly restored from its backup: run `telltale restore`."


def is_half_restored(session: Session) -> bool:
    """Whether a restore has begun and not come to its end."""
    return bool(session.scalar(text(f"SELECT to_regclass('{UNFINISHED_RESTORE}') IS NOT NULL")))


def refuse_half_restored() -> None:
    """Raise ConfigurationError where a restore has begun and not come to its end."""
    with glance() as session:
        if is_half_restored(session):
            raise ConfigurationError(HALF_RESTORED)


def check() -> None:
    """Raise ConfigurationError where a restore is unfinished, or the schema is older than this code needs."""
    refuse_half_restored()
    with glance() as session:
        made = session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        there = session.scalar(text("SELECT version_num FROM alembic_version")) if made else None
    if there is None or there < NEEDED:
        has = f"the schema {there}" if there else "no schema yet"
        raise ConfigurationError(f"The database has {has}, and this Telltale needs {NEEDED}: run `telltale migrate`.")
