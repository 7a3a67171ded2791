"""Rows of JSON files, each with its place, so that a bad one can be named. It knows no format of records."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model.evaluate.records.sample import Row, Skipped, is_text, shown

SUFFIXES = (".json", ".jsonl")
NO_TEXT = "it holds text that is no Unicode: half of a surrogate pair (\\ud800 to \\udfff)"


class UnreadableRecords(ValueError):
    """No records can be read from this file or folder at all; the message says what would be."""


def read(path: Path) -> tuple[list[Row], list[Skipped]]:
    """Rows of a JSON list, of JSON lines, or of one JSON object whose values are objects (each value is a row).

    Lines that are no JSON are skipped by number, and rows with strings that are no text. Raises UnreadableRecords
    where nothing in the file is JSON.
    """
    try:
        data = path.read_bytes()
        text = data.decode(json.detect_encoding(data))  # LOKI publishes one of its files in UTF-16
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableRecords(f"{path} cannot be read as text: {error}") from error
    try:
        whole = json.loads(text)
    except ValueError as error:
        rows, skipped = _lines(path, text, error)
    else:
        rows, skipped = _whole(whole), []
    good: list[Row] = []
    for row in rows:
        if _is_text(row.value):
            good.append(row)
        else:
            skipped.append(Skipped(shown(row.place), "", NO_TEXT))
    return good, skipped


def _whole(value: Any) -> list[Row]:
    if isinstance(value, list):
        return [Row(f"row {number}", each) for number, each in enumerate(value, start=1)]
    if isinstance(value, dict) and value and all(isinstance(each, dict) for each in value.values()):
        return [Row(f"key {key}", {"key": key, "questions": each}) for key, each in value.items()]
    return [Row("line 1", value)]


def _is_text(value: Any) -> bool:
    """Whether every string in a JSON value is text."""
    if isinstance(value, str):
        return is_text(value)
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        parts = (*value.keys(), *value.values())
    elif isinstance(value, list):
        parts = value
    return all(_is_text(part) for part in parts)


def _lines(path: Path, text: str, error: ValueError) -> tuple[list[Row], list[Skipped]]:
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row(f"line {number}", json.loads(line)))
        except json.JSONDecodeError as wrong:
            skipped.append(Skipped(f"line {number}", "", f"not JSON: {wrong.msg} at column {wrong.colno}"))
    if not text.strip():
        raise UnreadableRecords(f"{path} is empty.")
    if not any(isinstance(row.value, dict) for row in rows):
        raise UnreadableRecords(f"{path} is neither JSON nor JSON lines: {error}.")
    return rows, skipped
