"""Alembic's entry point: one migration at a time, with short lock and statement time-outs."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

from moderation.tables import Row

# Any constant: whoever migrates holds this advisory lock, so two migrations never run side by side.
MIGRATION_LOCK = 4_207_311


def run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(dialect_name="postgresql", target_metadata=Row.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run the revisions in one transaction."""
    engine = create_engine(context.config.get_main_option("sqlalchemy.url") or "", poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Row.metadata, compare_server_default=False)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            connection.execute(text("SET LOCAL statement_timeout = '5min'"))
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
