"""Images in folders named real and fake, at any depth: a bare `real/ fake/`, or FakeClue's `test/<source>/{real,fake}`.

The folder nearest to the image that is called real or fake is its label; what lies above is its category. It knows no
explanations: a tree has none.
"""

from __future__ import annotations

from pathlib import Path

from model.evaluate.records.sample import SUFFIXES, Found, Sample, Skipped
from model.prompt import Label

NAME = "folders"
LABELS: dict[str, Label] = {"real": "real", "fake": "fake"}
SPLITS = ("train", "test", "val")  # FakeClue's first level, which is no category


def fits(folder: Path) -> bool:
    """Whether any folder below is called real or fake."""
    return any(path.name.lower() in LABELS and path.is_dir() for path in folder.rglob("*"))


def read(folder: Path) -> Found:
    """A sample for each image, in order of names; an image in no such folder is skipped."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        parts = path.relative_to(folder).parts[:-1]
        at = next((index for index in reversed(range(len(parts))) if parts[index].lower() in LABELS), None)
        if at is None:
            skipped.append(Skipped(name, name, "it lies in no folder called real or fake"))
        else:
            category = "/".join(part for part in parts[:at] if part.lower() not in SPLITS) or "all"
            samples.append(Sample(name, name, name, path, LABELS[parts[at].lower()], category))
    return samples, skipped
