"""Shares, times and counts in words, and tables of them that a page shows and a file holds.

Where there are too few observations, the words say so, and how many there are: no number stands for nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from moderation.estimates import FEWEST, Interval, Share
from moderation.spreadsheets import inert

NBSP = "\u00a0"
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Numbers as they are; the first column says what a row is about."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @staticmethod
    def shown(cell: Cell) -> str:
        """A cell as a page shows it."""
        if cell is None:
            return "–"
        if isinstance(cell, float):
            return f"{cell:,.4g}" if cell < 1 else f"{cell:,.1f}"
        return f"{cell:,}" if isinstance(cell, int) else cell

    def csv(self) -> str:
        """As a file (RFC 4180). What is not known is empty; text that looks like a formula is quoted."""
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(self.columns)
        writer.writerows([inert(cell) if isinstance(cell, str) else cell for cell in row] for row in self.rows)
        return file.getvalue()


def percent(value: float) -> str:
    """A share, 0 to 1, as people write it; nothing that is not all is shown as 100 %."""
    shown = f"{value * 100:.1f}"
    if shown in ("0.0", "100.0") and value not in (0.0, 1.0):
        return f"over 99.9{NBSP}%" if value > 0.5 else f"under 0.1{NBSP}%"
    return f"{shown.removesuffix('.0')}{NBSP}%"


def between(interval: Interval) -> str:
    """An interval of shares."""
    return f"{interval.low * 100:.1f} to {interval.high * 100:.1f}{NBSP}%"


def share(found: Share, noun: str = "answers") -> str:
    """A share with its interval, or how far it is from being one."""
    if found.found is not None:
        return f"{percent(found.found.value)} ({between(found.found)})"
    return too_few(found, noun)


def too_few(found: Share, noun: str = "answers") -> str:
    """Why there is no number."""
    if found.n == 0:
        return f"no {noun}"
    if found.n >= FEWEST:
        return f"too few to say: {found.n} {noun}, a few with most of the weight"
    return f"too few to say: {found.n} of {FEWEST} {noun}"


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def cells(found: Share) -> list[Cell]:
    """A share as cells of a table: how many, value, low, high."""
    if found.found is None:
        return [found.n, None, None, None]
    return [found.n, *(round(value, 4) for value in (found.found.value, found.found.low, found.found.high))]
