"""One labelled set from a file or a folder, whatever its format, with what was left out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.evaluate.records import ddvqa, fakeclue, loki, rows, tree
from model.evaluate.records.rows import UnreadableRecords
from model.evaluate.records.sample import Row, Sample, Skipped, position

FORMATS = (fakeclue, loki, ddvqa)
EXPECTED = """What can be read:
  FakeClue  {"image": …, "label": 0 or 1, "cate": …, "conversations": […]}, a JSON list or a line each
  LOKI      {"image_path": …, "question": …, "answer": "Yes" or "No", …}, a JSON list or a line each
  DD-VQA    {"5_044": {"0": {"question": …, "answer": [… ]}, …}, …}
  folders   images below folders called real and fake"""


@dataclass(frozen=True)
class Dataset:
    """Samples in the order of their records. `format` is one of FakeClue, LOKI, DD-VQA and folders."""

    format: str
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]

    def digest(self) -> str:
        """sha256 of every sample's label, texts, name and file size: cheap, and enough to tell another set by."""
        digest = hashlib.sha256()
        for sample in self.samples:
            size = sample.path.stat().st_size
            line = [sample.id, sample.image, sample.label, sample.category, sample.references, sample.group, size]
            digest.update(json.dumps(line).encode())
        return digest.hexdigest()

    def first(self, limit: int | None) -> Dataset:
        """The first `limit` samples; what was skipped stays said."""
        return replace(self, samples=self.samples[:limit])


def read(data: Path, images: Path | None = None) -> Dataset:
    """Read a file of records, a folder of such files, or a tree of real and fake images.

    `images` is what the records' image names are relative to; the folder of `data` where it is None.
    Raises UnreadableRecords where no format fits, and where records and a tree both do: with `images`, records are
    meant.
    """
    if not data.exists():
        raise UnreadableRecords(f"{data} does not exist.")
    if data.is_dir() and images is None and tree.fits(data):
        _refuse_records_beside(data)
        found_images, outside = tree.read(data)
        return Dataset(tree.NAME, tuple(found_images), tuple(outside))
    folder = data if data.is_dir() else data.parent
    found, skipped = _rows(_files(data))
    if not found and not skipped:
        raise UnreadableRecords(f"{data} holds no records.")
    format_ = max(FORMATS, key=lambda each: sum(each.fits(row.value) for row in found))
    good = [row for row in found if format_.fits(row.value)]
    if not good:
        raise UnreadableRecords(f"{data} has no records of a known format.\n{EXPECTED}")
    skipped += [
        Skipped(row.place, "", f"not a record as {format_.NAME} has them: {_lacking(row.value, format_.FIELDS)}")
        for row in found
        if not format_.fits(row.value)
    ]
    samples, more = format_.read(good, images or folder)
    return Dataset(format_.NAME, tuple(samples), tuple(sorted(skipped + more, key=lambda each: position(each.place))))


def _lacking(value: Any, fields: Sequence[str]) -> str:
    if not isinstance(value, dict):
        return "not an object"
    missing = [field for field in fields if field not in value]
    return f"it has no {' and no '.join(missing)}" if missing else f"{' and '.join(fields)} hold something else"


def _refuse_records_beside(folder: Path) -> None:
    """JSON files amid a tree's images are somebody's notes; records above them are what may be meant instead.

    Raises UnreadableRecords.
    """
    for path in _json_files(folder):
        if any(part.lower() in tree.LABELS for part in path.relative_to(folder).parts[:-1]):
            continue
        if any(format_.fits(row.value) for row in _readable(path) for format_ in FORMATS):
            raise UnreadableRecords(
                f"{folder} has both records ({path.relative_to(folder)}) and folders called real and fake: name one. "
                f"Records: --data {path}, and --images for what their image names are relative to. Folders: --data "
                f"and a folder that has no records in it."
            )


def _readable(path: Path) -> list[Row]:
    """The rows of a file, of which there may be none."""
    try:
        return rows.read(path)[0]
    except UnreadableRecords:
        return []


def _files(data: Path) -> list[Path]:
    if data.is_file():
        return [data]
    files = _json_files(data)
    if not files:
        raise UnreadableRecords(f"{data} has neither folders called real and fake nor JSON files.\n{EXPECTED}")
    return files


def _json_files(folder: Path) -> list[Path]:
    """All below a folder, but for what an evaluation wrote there."""
    written = {path.parent for path in folder.rglob("predictions.jsonl") if path.with_name("run.json").is_file()}
    files = (path for path in folder.rglob("*") if path.suffix.lower() in rows.SUFFIXES and path.is_file())
    return sorted(path for path in files if not written.intersection(path.parents))


def _rows(files: Sequence[Path]) -> tuple[list[Row], list[Skipped]]:
    """The rows of all files; where there are several, a row's place names its file."""
    found: list[Row] = []
    skipped: list[Skipped] = []
    for path in files:
        prefix = f"{path.name}, " if len(files) > 1 else ""
        good, bad = rows.read(path)
        found += [replace(row, place=prefix + row.place) for row in good]
        skipped += [replace(each, place=prefix + each.place) for each in bad]
    return found, skipped
