"""An operator's own sets, the one that is replayed and the one that is measured on: what their images are known by.

Reviewed images have their hashes from screening; of these the run makes them, each time, for the files may change. It
knows files and hashes; no rows, and nothing of networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from model.decode import UndecodableImage, to_rgb
from model.evaluate.records import dataset
from model.evaluate.records.rows import UnreadableRecords
from model.gate.leaks import Fingerprint, leaks
from model.gate.margins import Margins
from moderation.errors import ConfigurationError
from moderation.fingerprints import fingerprint


def measured_on(place: Path) -> dict[str, Path]:
    """The files of the old set's images, by their names there. Raises ConfigurationError where it cannot be read."""
    try:
        return {sample.image: sample.path for sample in dataset.read(place).samples}
    except UnreadableRecords as error:
        raise ConfigurationError(f"TELLTALE_RETRAIN_OLD_SET: {error}") from error


def fingerprints(files: Mapping[str, Path], watch: Callable[[], None]) -> list[Fingerprint]:
    """What each file is known by, under its name; `watch` is called before each. Raises OSError."""
    found = []
    for name, path in sorted(files.items()):
        watch()
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(Fingerprint(name, sha256, pdq=_pdq(path)))
    return found


def _pdq(path: Path) -> str | None:
    """None where there is too little to see; and of what cannot be decoded, which the trainer refuses by its name."""
    try:
        seen = fingerprint(to_rgb(path))
    except UndecodableImage:
        return None
    return seen.pdq.hex() if seen.bands else None


def near(images: Sequence[Fingerprint], measured: Iterable[Fingerprint]) -> set[str]:
    """The ids of those images that are measured on as well, in any cut or compression."""
    return {leak.holdout for leak in leaks([*measured], images, Margins().near_copy_bits)}
