"""From samples to rows: images decoded in threads, judged in fixed batches, written down as they come.

A batch is samples number k·size to (k+1)·size, whatever was done before, so that a run that goes on computes what one
run would have. It knows nothing of metrics.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from model.answer import parse
from model.decode import UndecodableImage, to_rgb
from model.detector import Detection, Detector
from model.engines.engine import EngineError
from model.engines.vllm import ServerUnavailable
from model.evaluate import texts
from model.evaluate.journal import Journal, Record
from model.evaluate.records.sample import Sample

# scored: the label is the score's, the explanation is opened under it, as it is served.
# free:   the model's whole answer, nothing forced, and the label is read from it, as the paper measured.
# none:   verdicts alone.
Answers = Literal["scored", "free", "none"]

THREADS = max(4, min(16, os.cpu_count() or 1))
AHEAD = 2  # batches that are decoded while one is judged

# What a row has beyond its sample, in this order; None throughout where the image could not be judged.
JUDGED = ("sha256", "p_fake", "logit", "pair_mass", "scored", "predicted", "answer", "references", "rouge_l", "css")

# What any engine in order judges: an engine that fails on it is at fault itself.
PLAIN = Image.new("RGB", (64, 64), "grey")

Advance = Callable[[int], None]

# A verdict, and the model's own whole answer where that was asked for.
Said = tuple[Detection, str | None]


class UnfitImage(ValueError):
    """The image is sound, and cannot be altered or prepared; the message says why."""


@dataclass(frozen=True)
class Loaded:
    """An image ready for the detector, or why it is not."""

    prepared: Any = None
    sha256: str | None = None
    error: str | None = None


def judge(
    detector: Detector, samples: Sequence[Sample], journal: Journal, batch_size: int, answers: Answers, advance: Advance
) -> None:
    """A row for each sample that `journal` does not have yet: verdict, answer, and how near it is to its references.

    Raises EngineError: the engine is at fault then, not an image, and the run can go on later.
    """
    for batch, loaded in _batches(detector, samples[journal.done :], batch_size):
        rows = [
            _failed(sample, said) if isinstance(said, str) else _row(sample, each, *said)
            for sample, each, said in zip(batch, loaded, _asked(detector, loaded, answers), strict=True)
        ]
        _compare(batch, rows)
        journal.append(rows)
        advance(len(rows))


def rejudge(
    detector: Detector,
    samples: Sequence[Sample],
    journal: Journal,
    batch_size: int,
    alter: Callable[[Image.Image], Image.Image],
    advance: Advance,
) -> None:
    """A row with the verdict alone for each sample, altered, that `journal` does not have yet.

    Raises EngineError.
    """
    for batch, loaded in _batches(detector, samples[journal.done :], batch_size, alter):
        rows = [
            {"id": sample.id, "error": said} if isinstance(said, str) else _score(sample, said[0])
            for sample, said in zip(batch, _asked(detector, loaded, "none"), strict=True)
        ]
        journal.append(rows)
        advance(len(rows))


def _asked(detector: Detector, loaded: Sequence[Loaded], answers: Answers) -> list[Said | str]:
    """For each image what the detector says, or why it says nothing."""
    good = [each.prepared for each in loaded if each.error is None]
    said = iter(_together_or_alone(detector, good, answers) if good else [])
    return [next(said) if each.error is None else each.error for each in loaded]


def _together_or_alone(detector: Detector, prepared: Sequence[Any], answers: Answers) -> Sequence[Said | str]:
    """One image may be what an engine fails on: then each is asked about alone, and that one gives the reason.

    Raises EngineError where the engine fails on anything.
    """
    try:
        return _ask(detector, prepared, answers)
    except ServerUnavailable:
        raise
    except EngineError:
        return [_alone(detector, each, answers) for each in prepared]


def _alone(detector: Detector, prepared: Any, answers: Answers) -> Said | str:
    try:
        return _ask(detector, [prepared], answers)[0]
    except ServerUnavailable:
        raise
    except EngineError as error:
        _ask(detector, [detector.prepare(PLAIN)], answers)  # raises where it is not the image's fault
        return f"the engine refuses the image: {error}"


def _ask(detector: Detector, prepared: Sequence[Any], answers: Answers) -> list[Said]:
    detections = detector.detect_prepared(prepared, answers == "scored")
    free = detector.complete_prepared(prepared) if answers == "free" else [None] * len(prepared)
    return list(zip(detections, free, strict=True))


def _batches(
    detector: Detector,
    samples: Sequence[Sample],
    size: int,
    alter: Callable[[Image.Image], Image.Image] | None = None,
) -> Iterator[tuple[Sequence[Sample], list[Loaded]]]:
    """Batches in order, each with its images; the next ones are being decoded while one is used."""
    waiting: deque[tuple[Sequence[Sample], list[Future[Loaded]]]] = deque()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
    try:
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            waiting.append((batch, [threads.submit(_load, detector, sample, alter) for sample in batch]))
            if len(waiting) > AHEAD:
                yield _finished(waiting.popleft())
        while waiting:
            yield _finished(waiting.popleft())
    finally:
        threads.shutdown(cancel_futures=True)


def _finished(batch: tuple[Sequence[Sample], list[Future[Loaded]]]) -> tuple[Sequence[Sample], list[Loaded]]:
    samples, futures = batch
    return samples, [future.result() for future in futures]


def _load(detector: Detector, sample: Sample, alter: Callable[[Image.Image], Image.Image] | None) -> Loaded:
    try:
        data = sample.path.read_bytes()
        image = to_rgb(data)
    except OSError as error:
        return Loaded(error=f"the image cannot be read: {error.strerror or error}")
    except UndecodableImage as error:
        return Loaded(error=f"the image cannot be decoded: {error}")
    try:
        return Loaded(_prepared(detector, image, alter), hashlib.sha256(data).hexdigest())
    except UnfitImage as error:
        return Loaded(error=str(error))


def _prepared(detector: Detector, image: Image.Image, alter: Callable[[Image.Image], Image.Image] | None) -> Any:
    try:
        return detector.prepare(alter(image) if alter else image)
    except MemoryError:
        raise
    except Exception as error:  # codecs raise whatever they like, on an image too long for JPEG say
        raise UnfitImage(f"the image cannot be {'altered' if alter else 'prepared'}: {error}") from error


def _row(sample: Sample, loaded: Loaded, detection: Detection, free: str | None) -> Record:
    score = _score(sample, detection)
    return {
        **_identity(sample),
        "sha256": loaded.sha256,
        "p_fake": score["p_fake"],
        "logit": score["logit"],
        "pair_mass": score["pair_mass"],
        "scored": score["scored"],
        "predicted": score["scored"] if free is None else parse(free),
        "answer": detection.explanation if free is None else free,
        "references": list(sample.references),
        "rouge_l": None,
        "css": None,
        "error": None,
    }


def _score(sample: Sample, detection: Detection) -> Record:
    verdict = detection.verdict
    return {
        "id": sample.id,
        "scored": verdict.label,
        "p_fake": verdict.p_fake,
        "logit": verdict.logit,
        "pair_mass": verdict.pair_mass,
        "error": None,
    }


def _failed(sample: Sample, error: str) -> Record:
    return {**_identity(sample), **dict.fromkeys(JUDGED), "references": list(sample.references), "error": error}


def _identity(sample: Sample) -> Record:
    return {
        "place": sample.place,
        "id": sample.id,
        "image": sample.image,
        "category": sample.category,
        "group": sample.group,
        "label": sample.label,
    }


def _compare(batch: Sequence[Sample], rows: Sequence[Record]) -> None:
    """Fill in ROUGE-L and CSS where there is an answer and something to hold it against."""
    pairs = [(row, sample) for row, sample in zip(rows, batch, strict=True) if row.get("answer") and sample.references]
    scores = texts.compare([(row["answer"], sample.references) for row, sample in pairs])
    for (row, _), nearness in zip(pairs, scores, strict=True):
        row["rouge_l"], row["css"] = nearness.rouge_l, nearness.css
