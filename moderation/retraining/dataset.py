"""Examples as files: images fetched and checked, and FakeClue's records of them, as evaluation and finetuning read.

What may not be read any more (erased since, restricted, consent withdrawn) is left out and counted. It does not know
what the files are for.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from moderation import events
from moderation.db import transaction
from moderation.errors import ConfigurationError, InvalidRequest, NotFound
from moderation.images import SUFFIXES
from moderation.retraining import examples as records_of_runs
from moderation.retraining import runs, snapshot
from moderation.retraining.snapshot import Example, Snapshot
from moderation.storage import Storage
from moderation.tables import Image, TrainingRun
from moderation.vocabulary import EventType, Label, Split

LABELS = {Label.FAKE: 0, Label.REAL: 1}  # FakeClue's
# What the files of an exported data set are called, by side; without a run there are no sides.
FILES = {Split.TRAIN: "train", Split.HOLDOUT: "test"}
UNDIVIDED = "all"
GONE = "gone"  # erased, restricted, or its tenant no longer allows training

Record = dict[str, Any]
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Exported:
    """How many records each file has, and how many examples were left out, by reason."""

    files: Mapping[str, int]
    left_out: Mapping[str, int]


def record(example: Example, image: str, question: str, text: str | None = None) -> Record:
    """One record in FakeClue's format; `image` is its file's name, `text` the answer where it is not the example's."""
    return {
        "image": image,
        "label": LABELS[example.label],
        "cate": example.category or "all",
        "width": example.width,
        "height": example.height,
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": example.text if text is None else text},
        ],
        "group": example.group,
        "artifacts": list(example.artifacts),
        "case": str(example.case),
    }


def write_records(path: Path, records: Iterable[Record]) -> None:
    """A JSON list, all of it or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(list(records), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def fetched(
    storage: Storage, examples: Sequence[Example], place: Callable[[Example], Path], tick: Tick = lambda done: None
) -> list[Example]:
    """Fetch each example's image to `place(example)`, and return those that could be: the others' files are removed.

    What is there already and has the right sha256 is not fetched again. `tick` hears how many are done, before each.
    Raises StorageUnavailable, and ConfigurationError where an object is not what its row says.
    """
    there = []
    with transaction() as session:
        allowed = records_of_runs.allowed_now(session, examples)
    for done, example in enumerate(examples):
        tick(done)
        path, image = place(example), allowed.get(example.case)
        if image is not None and _fetch(storage, image, path):
            there.append(example)
        else:
            path.unlink(missing_ok=True)
    return there


def _fetch(storage: Storage, image: Image, path: Path) -> bool:
    """Whether the file is there now; not where the image's bytes have just gone."""
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == image.sha256:
        return True
    try:
        data = storage.get(image.s3_key, max_bytes=image.bytes)
    except NotFound:
        return False
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise ConfigurationError(f"The stored bytes of image {image.id} are not those that were sent: check the store.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)
    return True


def suffix(example: Example) -> str:
    """What a file of this image is to end with."""
    return SUFFIXES[example.media_type]


def export(storage: Storage, what: str, out: Path, *, actor: str, tick: Tick = lambda done: None) -> Exported:
    """Write a run's snapshot, or one given by its digest, as a FakeClue folder in `out`, a new or empty one.

    Raises NotFound, InvalidRequest where `out` holds something, StorageUnavailable, ConfigurationError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidRequest(f"{out} is not an empty folder: give a new one.")
    taken, sides, digest = _found(storage, what)
    names = {example.case: _name(example, sides) for example in taken.examples if _file(example, sides)}
    wanted = [example for example in taken.examples if example.case in names]
    out.mkdir(parents=True, exist_ok=True)
    there = fetched(storage, wanted, lambda example: out / names[example.case], tick)
    files: dict[str, list[Record]] = {}
    for example in there:
        file = _file(example, sides)
        assert file is not None
        files.setdefault(file, []).append(record(example, names[example.case], taken.question))
    for file, records in files.items():
        write_records(out / f"{file}.json", records)
    gone = len(taken.tombstones) + len(wanted) - len(there)
    left_out = Counter({GONE: gone, Split.LEFT_OUT.value: len(taken.examples) - len(wanted)})
    done = Exported({file: len(records) for file, records in sorted(files.items())}, left_out)
    _say(digest, done, actor)
    return done


def _found(storage: Storage, what: str) -> tuple[Snapshot, Mapping[UUID, Split], str]:
    """The snapshot of a run or of a digest, and its sides where a run came to them."""
    with transaction() as session:
        run = runs.find(session, what)
        sides = records_of_runs.sides_of(session, run.id) if run else {}
    digest = _digest(run, what)
    return snapshot.read(storage, digest), sides, digest


def _digest(run: TrainingRun | None, what: str) -> str:
    if run is None:
        return what
    if run.snapshot_digest is None:
        raise NotFound(f"Run {run.id} has no snapshot: it ended before it took one.")
    return run.snapshot_digest


def _file(example: Example, sides: Mapping[UUID, Split]) -> str | None:
    """The file that an example's record goes to; None for one that is on neither side."""
    return FILES.get(sides[example.case]) if example.case in sides else UNDIVIDED


def _name(example: Example, sides: Mapping[UUID, Split]) -> str:
    """FakeClue's layout: `train/<category>/fake/….jpg`, with what a category says in characters any system takes."""
    category = "".join(letter if letter.isalnum() or letter in "-_+" else "-" for letter in example.category or "all")
    return f"{_file(example, sides)}/{category}/{example.label.value}/{example.sha256}{suffix(example)}"


def _say(digest: str, done: Exported, actor: str) -> None:
    with transaction() as session:
        events.record(
            session,
            EventType.DATASET_EXPORTED,
            tenant_id=None,
            actor=actor,
            after={"snapshot": digest, "records": dict(done.files), "left_out": dict(done.left_out)},
        )
