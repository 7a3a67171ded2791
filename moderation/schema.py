"""Whether the database has the schema that this code was written for: an older one has not what is asked of it.

A newer one will do, as it has while a deployment is being upgraded: migrations only add (docs/upgrades.md).
"""

from __future__ import annotations

from sqlalchemy import text

from moderation.db import glance
from moderation.errors import ConfigurationError

# The migration that this code needs, and with it all before: the newest (a test holds it to that).
NEEDED = "0011"


def check() -> None:
    """Raise ConfigurationError where the schema is older than this code needs, or there is none."""
    with glance() as session:
        made = session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        there = session.scalar(text("SELECT version_num FROM alembic_version")) if made else None
    if there is None or there < NEEDED:
        has = f"the schema {there}" if there else "no schema yet"
        raise ConfigurationError(f"The database has {has}, and this Telltale needs {NEEDED}: run `telltale migrate`.")
