"""DD-VQA's annotations of FaceForensics++ frames: `{"0_114_102": {"0": {"question": …, "answer": [… , …]}, …}, …}`.

The key is the manipulation and the video (5 is an original); question 0 asks whether the image looks real or fake, and
its answers, of several annotators, give label and references (github.com/Reality-Defender/Research-DD-VQA). Questions
about single features are no verdicts, and are not read.

The images are not published with the annotations. The authors' frames are named by the key (`5_044.jpg`). FakeVLM's
authors say that they took frames of FF++ in order, one per question, from the first on (issue 3 of their repository):
so where there is a folder of frames per video, ours is its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from model.answer import parse
from model.decode import SUFFIXES
from model.evaluate.records.sample import BadRecord, Found, Row, Sample, collect, existing
from model.prompt import Label

NAME = "DD-VQA"
FIELDS = ("questions",)  # what no record can do without
MAIN_QUESTION = "0"
ORIGINAL = "5"
ENDINGS = sorted(SUFFIXES, key=lambda suffix: (suffix != ".jpg", suffix))  # the likeliest is named where there is none
MANIPULATIONS = {
    "0": "Deepfakes",
    "1": "Face2Face",
    "2": "FaceShifter",
    "3": "FaceSwap",
    ORIGINAL: "Original",
    "6": "NeuralTextures",
}


class Question(BaseModel):
    """What each annotator answered to one question."""

    model_config = ConfigDict(strict=True)

    answer: list[str] = Field(min_length=1)


def fits(value: Any) -> bool:
    """Whether this looks like one video's questions, as `rows.read` makes a row of them."""
    questions = value.get("questions") if isinstance(value, dict) else None
    return isinstance(questions, dict) and any(
        isinstance(each, dict) and "answer" in each for each in questions.values()
    )


def read(rows: Sequence[Row], images: Path) -> Found:
    """A sample for each video whose main question has an answer and whose frame lies below `images`."""
    return collect(rows, lambda row: _sample(row, images), lambda value: str(value.get("key", "")))


def _sample(row: Row, images: Path) -> Sample:
    key = str(row.value.get("key", ""))
    kind, _, video = key.partition("_")
    if kind not in MANIPULATIONS or not video:
        raise BadRecord(f"the key is not a manipulation (0, 1, 2, 3, 5 or 6) and a video: {key!r}")
    if MAIN_QUESTION not in row.value["questions"]:
        raise BadRecord("it has no question 0, which asks whether the image looks real or fake")
    answers = Question.model_validate(row.value["questions"][MAIN_QUESTION]).answer
    path = existing(images, *_names(images, key, MANIPULATIONS[kind], video))
    return Sample(
        place=row.place,
        id=key,
        image=path.relative_to(images).as_posix(),
        path=path,
        label=_label(kind, answers),
        category=MANIPULATIONS[kind],
        references=tuple(answers),
        group=video.split("_")[0],  # the video that was manipulated, whatever was done to it
    )


def _label(kind: str, answers: Sequence[str]) -> Label:
    readings = {parse(answer) for answer in answers}
    expected: Label = "real" if kind == ORIGINAL else "fake"
    if readings != {expected}:
        raise BadRecord(f"its key says {expected}, its answers say {' and '.join(sorted(readings))}")
    return expected


def _names(images: Path, key: str, manipulation: str, video: str) -> list[str]:
    named = [f"{folder}{key}{suffix}" for folder in ("", f"{manipulation}/") for suffix in ENDINGS]
    return named + _first_frame(images, f"{manipulation}/{video}")


def _first_frame(images: Path, folder: str) -> list[str]:
    """Its name, where there is such a folder."""
    try:
        names = sorted(path.name for path in (images / folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise BadRecord(f"the folder of its frames cannot be looked into: {error}") from error
    return [f"{folder}/{name}" for name in names if Path(name).suffix.lower() in SUFFIXES][:1]
