"""What a run showed, for people and in one line for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.chaos.faults import KILLED, PAUSED, Ground
from benchmarks.chaos.reckoning import Violation
from benchmarks.chaos.storm import MOODS, QUOTA
from moderation.db import transaction

MAX_SHOWN = 5
MAX_LINES = 2


def faults(ground: Ground) -> Table:
    """How often each fault was done, beside each other."""
    made = _table("What was done")
    for heading in ("killed", "paused past its lease", "and"):
        made.add_column(heading)
        made.add_column("times", justify="right")
    others = [*MOODS, QUOTA]
    for number in range(max(len(KILLED), len(PAUSED), len(others))):
        made.add_row(
            *_cell(KILLED, ground.kills, number),
            *_cell(PAUSED, ground.pauses, number),
            *_cell(others, ground.others, number),
        )
    return made


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")


def _cell(names: Sequence[str], counts: Mapping[str, int], number: int) -> tuple[str, str]:
    return (names[number], str(counts[names[number]])) if number < len(names) else ("", "")


def outcome(rows: Mapping[str, tuple[Any, bool]]) -> Table:
    """What became of everything: a number, and whether it is as it must be."""
    made = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="What came of it",
        title_justify="left",
        title_style="bold",
        show_header=False,
    )
    made.add_column()
    made.add_column(justify="right")
    made.add_column()
    for name, (value, good) in rows.items():
        made.add_row(name, str(value), "[green]✓[/green]" if good else "[bold red]✗[/bold red]")
    return made


def show_violations(violations: Sequence[Violation], logs: Path, console: Console) -> None:
    """Each with its case's history and the lines of the logs that speak of it; the first few of a kind."""
    for kind, count in Counter(violation.kind for violation in violations).items():
        console.print(f"\n[bold red]{kind}: {count}[/bold red]")
        those = [violation for violation in violations if violation.kind == kind]
        for violation in those[:MAX_SHOWN]:
            console.print(f"  {violation.what}", markup=False, soft_wrap=True)
            for line in _history(violation.id):
                console.print(f"      {line}", style="dim", markup=False, soft_wrap=True)
            for line in _lines(violation.id, logs):
                console.print(f"      {line}", style="dim", markup=False, soft_wrap=True)
        if len(those) > MAX_SHOWN:
            console.print(f"  … and {len(those) - MAX_SHOWN} more")


def _history(id_: str | None) -> Iterator[str]:
    """The audit trail of a case, in one line."""
    if id_ is None:
        return
    with transaction() as session:
        rows = session.execute(
            text("SELECT created_at, type FROM events WHERE case_id::text = :id ORDER BY sequence"), {"id": id_}
        ).all()
    if rows:
        yield "history: " + " → ".join(f"{row.created_at:%H:%M:%S.%f}"[:-4] + f" {row.type}" for row in rows)


def _lines(id_: str | None, logs: Path) -> Iterator[str]:
    """Where the logs speak of an id: the last few lines of each, as `file:line: text`."""
    for file in sorted(logs.glob("*.log*")) if id_ else ():
        lines = file.read_text(errors="replace").splitlines()
        found = [f"{file.name}:{number}: {line}" for number, line in enumerate(lines, 1) if id_ and id_ in line]
        yield from (line[:300] for line in found[-MAX_LINES:])


def last_line(accepted: int, violations: Sequence[Violation], ground: Ground, more: Mapping[str, Any]) -> str:
    """The counts, in one line of JSON."""
    kinds = Counter(violation.kind for violation in violations)
    named = {"lost": kinds["lost"], "decided_twice": kinds["decided twice"], "events_missing": kinds["event missing"]}
    others = {"violations": len(violations), "kills": {name: ground.kills[name] for name in KILLED}}
    pauses = {"pauses": dict(ground.pauses), "others": dict(ground.others)}
    return json.dumps({"accepted": accepted, **named, **others, **pauses, **more})
