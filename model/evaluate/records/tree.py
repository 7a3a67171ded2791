"""Images in folders named real and fake, at any depth: a bare `real/ fake/`, or FakeClue's `test/<source>/{real,fake}`.

The folder nearest to the image that is called real or fake is its label; what lies above is its category. It knows no
explanations: a tree has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from model.decode import SUFFIXES
from model.evaluate.records.sample import BadRecord, Found, Sample, Skipped, existing, is_text, shown
from model.prompt import Label

NAME = "folders"
LABELS: dict[str, Label] = {"real": "real", "fake": "fake"}
SPLITS = ("train", "test", "val")  # FakeClue's first level, which is no category


def fits(folder: Path) -> bool:
    """Whether any folder below is called real or fake."""
    return any(path.name.lower() in LABELS and path.is_dir() for path in folder.rglob("*"))


def read(folder: Path) -> Found:
    """A sample for each image, mixed; an image in no such folder, or that cannot be looked at, is skipped."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        try:
            samples.append(_sample(folder, name))
        except BadRecord as error:
            skipped.append(Skipped(shown(name), shown(name), shown(str(error))))
    return mixed(samples), skipped


def mixed(samples: Sequence[Sample]) -> list[Sample]:
    """Both classes evenly spread, each in an order without meaning: the first so many are a fair sample of the whole.

    The order is that of the names' hashes: the same on every machine.
    """
    places: list[tuple[float, str, Sample]] = []
    for label in LABELS.values():
        of_label = sorted((each for each in samples if each.label == label), key=_hash)
        places += [((rank + 0.5) / len(of_label), label, each) for rank, each in enumerate(of_label)]
    return [each for *_, each in sorted(places, key=lambda place: place[:2])]


def _hash(sample: Sample) -> str:
    return hashlib.sha256(sample.id.encode()).hexdigest()


def _sample(folder: Path, name: str) -> Sample:
    if not is_text(name):
        raise BadRecord("its name is no Unicode: rename it")
    parts = Path(name).parts[:-1]
    at = next((index for index in reversed(range(len(parts))) if parts[index].lower() in LABELS), None)
    if at is None:
        raise BadRecord("it lies in no folder called real or fake")
    category = "/".join(part for part in parts[:at] if part.lower() not in SPLITS) or "all"
    return Sample(name, name, name, existing(folder, name), LABELS[parts[at].lower()], category)
