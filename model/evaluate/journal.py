"""Rows on disk, a line each, written batch by batch: what a killed run leaves is what the next one goes on from.

A batch that was not written whole, or that is not of the samples it should be of, is dropped with all that follow and
done again, so that every batch that counts was computed as one. It knows nothing of what is in a row but its `id`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Journal:
    """The rows of one pass over samples, whose ids are `ids`, in batches of `batch_size`.

    Opening it drops what is no whole batch of them: half a batch, rows of other samples, more rows than samples.
    """

    def __init__(self, path: Path, batch_size: int, ids: Sequence[str]) -> None:
        self._path = path
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        good = _how_many_are(ids, lines)
        self.done = good if good == len(ids) else good // batch_size * batch_size
        with path.open("ab") as file:
            file.truncate(sum(map(len, lines[: self.done])))

    def append(self, rows: Sequence[Record]) -> None:
        """One batch, on disk when this returns."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with self._path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.done += len(rows)

    def rows(self) -> list[Record]:
        """All rows so far, in order."""
        return [json.loads(line) for line in self._path.read_bytes().splitlines()]


def _how_many_are(ids: Sequence[str], lines: Sequence[bytes]) -> int:
    """How many lines from the first on are whole rows of the samples they should be of."""
    for number, (line, id_) in enumerate(zip(lines, ids, strict=False)):
        if not line.endswith(b"\n") or _id(line) != id_:
            return number
    return min(len(lines), len(ids))


def _id(line: bytes) -> Any:
    """The id in a line; None where it is no row."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row.get("id") if isinstance(row, dict) else None
