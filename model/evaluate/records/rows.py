"""Rows of JSON files, each with its place, so that a bad one can be named. It knows no format of records."""

from __future__ import annotations

import json
from pathlib import Path

from model.evaluate.records.sample import Row, Skipped

SUFFIXES = (".json", ".jsonl")


class UnreadableRecords(ValueError):
    """No records can be read from this file or folder at all; the message says what would be."""


def read(path: Path) -> tuple[list[Row], list[Skipped]]:
    """Rows of a JSON list, of JSON lines, or of one JSON object whose values are objects (each value is a row).

    Lines that are no JSON are skipped by number. Raises UnreadableRecords where nothing in the file is JSON.
    """
    try:
        data = path.read_bytes()
        text = data.decode(json.detect_encoding(data))  # LOKI publishes one of its files in UTF-16
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableRecords(f"{path} cannot be read as text: {error}") from error
    try:
        whole = json.loads(text)
    except ValueError as error:
        return _lines(path, text, error)
    if isinstance(whole, list):
        return [Row(f"row {number}", value) for number, value in enumerate(whole, start=1)], []
    if isinstance(whole, dict) and whole and all(isinstance(value, dict) for value in whole.values()):
        return [Row(f"key {key}", {"key": key, "questions": value}) for key, value in whole.items()], []
    return [Row("line 1", whole)], []


def _lines(path: Path, text: str, error: ValueError) -> tuple[list[Row], list[Skipped]]:
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row(f"line {number}", json.loads(line)))
        except ValueError as wrong:
            skipped.append(Skipped(f"line {number}", "", f"not JSON: {wrong}"))
    if not any(isinstance(row.value, dict) for row in rows):
        raise UnreadableRecords(f"{path} is neither JSON nor JSON lines: {error}.")
    return rows, skipped
