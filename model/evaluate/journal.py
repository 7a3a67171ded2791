"""Rows on disk, a line each, written batch by batch: what a killed run leaves is what the next one goes on from.

A batch that was not written whole is dropped and done again, so that every batch that counts was computed as one. It
knows nothing of what is in a row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Journal:
    """The rows of one pass over `total` samples in batches of `batch_size`. Opening it drops a half-written batch."""

    def __init__(self, path: Path, batch_size: int, total: int) -> None:
        self._path = path
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = len(lines) if not lines or lines[-1].endswith(b"\n") else len(lines) - 1
        self.done = whole if whole == total else whole // batch_size * batch_size
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
