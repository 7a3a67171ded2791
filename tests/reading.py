"""How much of a table a query reads, and tables that are large enough for it to matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

MANY = 20_000
FEW = 50
READ = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = :table"


def copy(session: Session, table: str, id_: UUID, *unlike: str) -> None:
    """Copy a row MANY times; its id and the columns in `unlike` are made up, whatever foreign keys want."""
    session.flush()
    columns = session.scalars(
        text("SELECT column_name FROM information_schema.columns WHERE table_name = :table"), {"table": table}
    ).all()
    made = {"id", *unlike}
    values = ", ".join("gen_random_uuid()" if column in made else f'"{column}"' for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    session.execute(text("SET LOCAL session_replication_role = replica"))
    rows = f"FROM {table}, generate_series(1, {MANY}) WHERE id = :id"
    session.execute(text(f"INSERT INTO {table} ({names}) SELECT {values} {rows}"), {"id": id_})
    session.execute(text(f"ANALYZE {table}"))


@contextmanager
def reading_few(session: Session, table: str, few: int = FEW) -> Iterator[None]:
    """Fail where more than `few` rows of the table are read within, by whatever way the planner takes to them."""
    before = session.scalar(text(READ), {"table": table}) or 0
    yield
    read = (session.scalar(text(READ), {"table": table}) or 0) - before
    assert read <= few, f"{read} rows of {table} were read"
