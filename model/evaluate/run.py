"""One evaluation in one folder: what is measured is written down first, so that only the same run goes on in it.

Files: `run.json` (what this run is), `predictions.jsonl` (a row per sample), `robustness/*.jsonl`, `skipped.jsonl`,
`summary.json`, `report.html`. Everything but the first is the same whether or not the run was interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from model.checkpoint import locate
from model.detector import Detector
from model.evaluate import judging
from model.evaluate.journal import Journal, Record
from model.evaluate.judging import Advance, Answers
from model.evaluate.records.dataset import Dataset
from model.evaluate.records.sample import position
from model.evaluate.robustness import ALTERATIONS

DESCRIPTION = "run.json"
PREDICTIONS = "predictions.jsonl"
SKIPPED = "skipped.jsonl"
SUMMARY = "summary.json"
REPORT = "report.html"


class OtherRun(ValueError):
    """The folder holds something else than this run, or is in use; the message says what differs and what to do."""


class Progress(Protocol):
    """Somebody who shows how far a pass is."""

    def __call__(self, what: str, total: int, done: int) -> AbstractContextManager[Advance]:
        """For the time of one pass over `total` images, of which `done` are there: what to call after each batch."""


@dataclass(frozen=True)
class Options:
    """What may be chosen about a run. `robustness` is not part of its identity: it can be added to a finished run."""

    answers: Answers = "scored"
    batch_size: int = 16
    limit: int | None = None
    robustness: bool = False


@dataclass(frozen=True)
class Results:
    """Everything that was measured: a row per sample, in order, and for each alteration the same samples' scores."""

    description: Record
    rows: list[Record]
    altered: dict[str, list[Record]]
    skipped: list[Record]


def describe(detector: Detector, source: str, revision: str | None, dataset: Dataset, options: Options) -> Record:
    """What makes this run this run; two runs whose descriptions are equal give the same predictions."""
    manifest = detector.manifest
    return {
        "format": 1,
        "checkpoint": {
            "source": source,
            "name": manifest.name,
            "kind": manifest.kind,
            "is_demo": manifest.is_demo,
            "base": manifest.base,
            "revision": manifest.revision or revision,
            "manifest_digest": manifest.digest(),
            "weights_sha256": None if detector.engine == "vllm" else weights_digest(source, revision),
            "prompt": manifest.prompt.text,
            "verdict_prefix": manifest.prompt.verdict_prefix,
            "calibration": manifest.calibration.model_dump(mode="json"),
        },
        "engine": detector.engine,
        "dtype": detector.dtype,
        "data": {"format": dataset.format, "records": len(dataset.samples), "records_digest": dataset.digest()},
        "options": {"answers": options.answers, "batch_size": options.batch_size, "limit": options.limit},
    }


def weights_digest(source: str, revision: str | None) -> str | None:
    """sha256 over a folder's weight files, in order of names; None for a hub id, whose commit pins them."""
    place, _ = locate(source, revision)
    if not isinstance(place, Path):
        return None
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def folder_name(description: Record, data: Path) -> str:
    """A name that people recognise and that no other run has: checkpoint, data, and the start of a digest."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    checkpoint = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in _name(description))
    return f"{checkpoint}-{data.resolve().stem}-{description['options']['answers']}-{digest[:8]}"


def _name(description: Record) -> str:
    return str(description["checkpoint"]["name"])


@contextmanager
def claimed(out: Path, description: Record) -> Iterator[None]:
    """The folder is this run's, and this process's alone until the block ends, however it ends.

    Raises OtherRun where it is another's, holds files of something else, or another process is at work in it.
    """
    path = out / DESCRIPTION
    if not path.exists() and out.exists() and any(out.iterdir()):
        raise OtherRun(f"{out} is not empty and no evaluation of ours: choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        _lock(file, out)
        _describe(file, out, description)
        yield


def _lock(file: IO[str], out: Path) -> None:
    """Held until the file is closed, also by a process that is killed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OtherRun(f"{out} is being written by another process: let it finish, or choose another --out.") from error


def _describe(file: IO[str], out: Path, description: Record) -> None:
    """Write down what this run is, or find that it is what is written down; an empty file is one just made."""
    if not file.seek(0, os.SEEK_END):
        file.write(json.dumps(description, indent=2) + "\n")
        file.flush()
        return
    file.seek(0)
    try:
        there = json.loads(file.read())
    except ValueError as error:
        raise OtherRun(f"{out / DESCRIPTION} is damaged: delete {out}, or choose another --out.") from error
    if there != description:
        raise OtherRun(
            f"{out} holds another evaluation ({'; '.join(_differences(there, description))}): choose another --out, "
            "or delete that folder to start anew."
        )


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(there.keys() | here.keys())
        return [found for key in keys for found in _differences(there.get(key), here.get(key), f"{name} {key}".strip())]
    return [] if there == here else [f"its {name} is {_brief(there)}, not {_brief(here)}"]


def _brief(value: Any) -> str:
    """Of a sha256 the first digits are enough to see that it is another."""
    is_digest = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
    return f"{value[:8]}…" if is_digest else repr(value)


def measure(
    detector: Detector, dataset: Dataset, out: Path, description: Record, options: Options, progress: Progress
) -> Results:
    """Judge what is not judged yet, in a folder that `claimed` made ours.

    Raises EngineError; what was judged until then stays.
    """
    samples, size = dataset.samples, options.batch_size
    journal = Journal(out / PREDICTIONS, size, [sample.id for sample in samples])
    with progress("judging", len(samples), journal.done) as advance:
        judging.judge(detector, samples, journal, size, options.answers, advance)
    rows = journal.rows()
    altered = _alter(detector, dataset, out, options, progress) if options.robustness else {}
    skipped = sorted(
        [asdict(each) for each in dataset.skipped] + _unreadable(rows), key=lambda each: position(each["place"])
    )
    _write_lines(out / SKIPPED, skipped)
    return Results(description, rows, altered, skipped)


def _alter(
    detector: Detector, dataset: Dataset, out: Path, options: Options, progress: Progress
) -> dict[str, list[Record]]:
    folder, samples, size = out / "robustness", dataset.samples, options.batch_size
    folder.mkdir(exist_ok=True)
    found, ids = {}, [sample.id for sample in samples]
    for alteration in ALTERATIONS:
        journal = Journal(folder / f"{alteration.name}.jsonl", size, ids)
        with progress(alteration.name, len(samples), journal.done) as advance:
            judging.rejudge(detector, samples, journal, size, alteration.apply, advance)
        found[alteration.name] = journal.rows()
    return found


def _unreadable(rows: Sequence[Record]) -> list[Record]:
    return [
        {"place": row["place"], "image": row["image"], "reason": row["error"]}
        for row in rows
        if row["error"] is not None
    ]


def _write_lines(path: Path, rows: Sequence[Record]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
