"""One labelled image, and the record that gave none: what every reader makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.prompt import Label

# Raster files that are looked for in folders; a file that a record names is read whatever it is called.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".jp2", ".ppm")
)


class BadRecord(ValueError):
    """This record cannot be measured; the message says why, in words that follow `line 7: `."""


@dataclass(frozen=True)
class Row:
    """One value of a records file. `place` is where it stands, for people: `line 7`, `row 7`, `key 5_044`."""

    place: str
    value: Any


@dataclass(frozen=True)
class Sample:
    """One image whose label is known.

    `image` is the name that the record gives it, `path` the file. `references` are explanations people would accept,
    none or several. Samples of one `group` are alike (frames of one video, crops of one photo); None where not known.
    """

    place: str
    id: str
    image: str
    path: Path
    label: Label
    category: str
    references: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A record that is left out, and why."""

    place: str
    image: str
    reason: str


Found = tuple[list[Sample], list[Skipped]]


def collect(rows: Iterable[Row], make: Callable[[Row], Sample], name: Callable[[Any], str]) -> Found:
    """A sample for every row, or why there is none. `name` gives the image of a row, as far as it has one."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for row in rows:
        try:
            samples.append(make(row))
        except (BadRecord, ValidationError) as error:
            skipped.append(Skipped(row.place, name(row.value), reason(error)))
    return samples, skipped


def existing(path: Path) -> Path:
    """The path of an image that is there.

    Raises BadRecord.
    """
    if not path.is_file():
        raise BadRecord(f"the image file does not exist: {path}")
    return path


def first_existing(paths: Sequence[Path]) -> Path:
    """The first of several places where an image may be.

    Raises BadRecord naming the first of them.
    """
    return next((path for path in paths if path.is_file()), None) or existing(paths[0])


def reason(error: Exception) -> str:
    """One line for people, also for what pydantic found."""
    if isinstance(error, ValidationError):
        found = [
            (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, ")) for each in error.errors()
        ]
        return "; ".join(f"{where}: {what}" for where, what in found)
    return str(error)
