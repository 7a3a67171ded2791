"""One labelled image, and the record that gave none: what every reader makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.prompt import Label

NO_FILE = "the image file does not exist"


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


def existing(images: Path, *names: str) -> Path:
    """The first of several names, relative to `images`, that an image has.

    A record is other people's text, and reports show pictures: what leads out of `images`, by `..`, an absolute name or
    a link, is not looked at. Raises BadRecord naming the first name.
    """
    found = next((images / name for name in names if _is_image(images, name)), None)
    if found is None:
        others = f", nor by any of {len(names) - 1} other names" if len(names) > 1 else ""
        raise BadRecord(f"{NO_FILE}: {images / names[0]}{others}")
    return found


def _is_image(images: Path, name: str) -> bool:
    try:
        inside = (images / name).resolve().is_relative_to(images.resolve())
        there = (images / name).is_file()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise BadRecord(f"the image file cannot be looked for: {error.strerror or error}: {name}") from error
    except (RuntimeError, ValueError) as error:  # links in a circle, a name with a zero byte
        raise BadRecord(f"the image file cannot be looked for: {error}") from error
    if not inside:
        raise BadRecord(f"the image's name leads out of the images' folder: {name}")
    return there


def position(place: str) -> list[str | int]:
    """What places are sorted by, so that line 10 comes after line 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", place)]


def is_text(text: str) -> bool:
    """Whether it can be written: JSON may hold half a surrogate pair, and file names any bytes, which are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """Text that can be written, also of what `is_text` refuses."""
    return text.encode(errors="backslashreplace").decode()


def _said(message: str) -> str:
    """As it was raised, without what pydantic puts before it."""
    return message.removeprefix("Value error, ")


def reason(error: Exception) -> str:
    """One line for people, also for what pydantic found."""
    if isinstance(error, ValidationError):
        found = [
            (".".join(map(str, each["loc"])), "missing" if each["type"] == "missing" else _said(each["msg"]))
            for each in error.errors()
        ]
        return "; ".join(f"{where}: {what}" for where, what in found)
    return str(error)
