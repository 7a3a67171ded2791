"""The database schema's history (Alembic). Revisions never import live code."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

FOLDER = Path(__file__).parent


def config(database_url: str) -> Config:
    """Alembic's configuration for one database."""
    made = Config()
    made.set_main_option("script_location", str(FOLDER))
    made.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return made


def revisions() -> list[str]:
    """Every revision that this Telltale knows, the newest first."""
    return [script.revision for script in ScriptDirectory(str(FOLDER)).walk_revisions()]


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the database to `revision`; safe to run again, and by several processes at once."""
    command.upgrade(config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Take the database back to `revision`."""
    command.downgrade(config(database_url), revision)
