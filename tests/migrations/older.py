"""What an older Telltale does with the database, read from the schema that it knew: it inserts, reads and updates.

Of each table two rows: one with only what must be there, and one with everything, each by the columns of then. That is
more than any code of then did, and knows none of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import ARRAY, Column, Connection, MetaData, Table, insert, select, types, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

# What a check of then asks for.
GIVEN = {"policies.real_up_to": 0.1, "policies.fake_from": 0.9, "reviewed_sentences.written": "a sentence"}
# A trigger refuses to have these changed.
APPEND_ONLY = {"events"}
_numbers = itertools.count(1)


@dataclass
class Older:
    """An older Telltale, which knows these tables."""

    tables: MetaData
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def as_of(cls, connection: Connection) -> Older:
        """The one whose schema this database has now."""
        known = MetaData()
        known.reflect(connection)
        known.remove(known.tables["alembic_version"])
        return cls(known)

    def at_work(self, connection: Connection) -> Iterator[str]:
        """What of its work fails on this database, which may be of a later schema."""
        for everything in (False, True):
            self.rows = {}
            for table in self.tables.sorted_tables:
                yield from self._failing(connection, table, everything)

    def _failing(self, connection: Connection, table: Table, everything: bool) -> Iterator[str]:
        row = self._row(table, everything)
        changed = {name: row[name] for name in row if name not in table.primary_key.columns}
        its = [column == row[column.name] for column in table.primary_key.columns if column.name in row]
        for statement in (
            insert(table).values(row),
            select(table).where(*its),
            *([update(table).where(*its).values(changed)] if changed and its and table.name not in APPEND_ONLY else []),
        ):
            try:
                with connection.begin_nested():
                    connection.execute(statement)
            except DBAPIError as error:
                yield f"{type(statement).__name__.lower()} {table.name}: {str(error.orig).splitlines()[0]}"
        self.rows[table.name] = row

    def _row(self, table: Table, everything: bool) -> dict[str, Any]:
        wanted = [each for each in table.columns if not each.identity and (everything or _is_needed(each))]
        return {column.name: self._value(column) for column in wanted}

    def _value(self, column: Column[Any]) -> Any:
        name = f"{column.table.name}.{column.name}"
        for key in column.foreign_keys:
            if key.column.table is not column.table:
                return self.rows[key.column.table.name][key.column.name]
            return None
        return GIVEN.get(name, _some(column.type))


def _is_needed(column: Column[Any]) -> bool:
    name = f"{column.table.name}.{column.name}"
    return name in GIVEN or (not column.nullable and column.server_default is None)


def _some(kind: types.TypeEngine[Any]) -> Any:
    """Any value of a type, another one each time."""
    number = next(_numbers)
    if isinstance(kind, ARRAY | postgresql.ARRAY):
        return []
    if isinstance(kind, types.DateTime):
        return datetime.now(UTC)
    return {
        types.UUID: uuid4,
        types.Boolean: lambda: True,
        types.Date: lambda: datetime.now(UTC).date(),
        types.Float: lambda: 0.5,
        types.LargeBinary: lambda: bytes(8),
        types.JSON: dict,
    }.get(next((base for base in _KINDS if isinstance(kind, base)), None), lambda: _plain(kind, number))()  # type: ignore[arg-type]


_KINDS = (types.UUID, types.Boolean, types.Date, types.Float, types.LargeBinary, types.JSON)


def _plain(kind: types.TypeEngine[Any], number: int) -> Any:
    return number if isinstance(kind, types.Integer) else f"text {number}"
