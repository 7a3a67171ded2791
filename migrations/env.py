"""Alembic's entry point: one migration at a time, with short lock and statement time-outs."""

from __future__ import annotations

import time

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from moderation.tables import Row

# Any constant: whoever migrates holds this advisory lock, so two migrations never run side by side.
MIGRATION_LOCK = 4_207_311
TURN_S = 0.1


def run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(dialect_name="postgresql", target_metadata=Row.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run the revisions in one transaction, but for those that build indexes while the service runs."""
    engine = create_engine(context.config.get_main_option("sqlalchemy.url") or "", poolclass=pool.NullPool)
    with engine.connect() as connection:
        _wait_for_turn(connection)
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET statement_timeout = '5min'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=Row.metadata, compare_server_default=False)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


def _wait_for_turn(connection: Connection) -> None:
    """Take the lock, for as long as the connection lasts.

    Asked for again and again: an index that is built concurrently would wait for a statement that waits for the lock.
    """
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK}):
        connection.rollback()
        time.sleep(TURN_S)
    connection.commit()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
