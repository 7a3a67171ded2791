"""Rows on a terminal: a table for people, JSON for programs. It knows no rows of its own.

Values are str, int, float, bool, None, lists of them, UUIDs and times (shown in UTC, to the second). Platforms and
their users wrote some of them, and a terminal does what control characters tell it: they are shown instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A pipe or a file has no width; ids and links must stay whole there.
PIPE_WIDTH = 240
COLOURS = {
    "fake": "red",
    "real": "green",
    "decided": "green",
    "delivered": "green",
    "in_review": "yellow",
    "pending": "yellow",
    "failed": "red",
    "disabled": "red",
    "champion": "green",
}

# Control characters, and those that turn text around (https://trojansource.codes), but for the end of a line.
_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Record = Mapping[str, Any]
as_json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")


def console() -> Console:
    """Standard output; as wide as the terminal, or wide enough where there is none."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


def print_list(rows: Sequence[Record], *, as_json: bool, none: str, only_json: Collection[str] = ()) -> None:
    """A table of rows that have the same keys, or a JSON list.

    `none` is what to say where there are no rows; `only_json` are keys that the table has no room for.
    """
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo(none)
    else:
        console().print(table([{key: row[key] for key in row if key not in only_json} for row in rows]))


def table(rows: Sequence[Record]) -> Table:
    """Rows as a table, a column for each key of the first."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in rows[0].items():
        # An id cut in two cannot be copied.
        made.add_column(name.replace("_", " "), no_wrap=isinstance(value, UUID), overflow="fold")
    for row in rows:
        made.add_row(*(cell(value) for value in row.values()))
    return made


def print_record(record: Record, *, as_json: bool) -> None:
    """One row, a line for each value, never wrapped, so that it can be copied."""
    if as_json:
        print_json(record)
        return
    width = max(len(name) for name in record) + 2
    for name, value in record.items():
        click.echo(f"{name.replace('_', ' '):<{width}}{cell(value).plain}")


def print_once(what: str, secret: str, record: Record, *, as_json: bool) -> None:
    """A row that was made, and with it a secret that cannot be shown again."""
    print_record({**record, what: secret}, as_json=as_json)
    if not as_json:
        click.echo(f"Keep the {what} now: it is not shown again.", err=True)


def print_json(value: Any) -> None:
    """JSON, indented, with times as ISO 8601."""
    written = json.dumps(value, indent=2, ensure_ascii=False, default=_as_json)
    # JSON escapes what is below a space itself; the rest means the same when it is escaped.
    click.echo(_UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", written))


def cell(value: Any) -> Text:
    """One value for people, in colour where it is a word that has one."""
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, datetime):
        return Text(f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}")
    if isinstance(value, list | tuple):
        return Text(inert(", ".join(map(str, value))))
    return Text(inert(str(value)), style=COLOURS.get(str(value), ""))


def inert(text: str) -> str:
    """A text of somebody else's, of which a terminal obeys nothing."""
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


def _as_json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
