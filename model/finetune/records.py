"""Training rows in FakeClue's or LLaVA's format, read and checked as a whole before the first step.

A row is `{"image": …, "label": 0 or 1, "conversations": [{"from": "human", …}, {"from": "gpt", …}]}`; label 0 is fake,
1 is real, and where LLaVA's format leaves it out, the answer says it. Other fields are ignored. One image and one turn
is all that is ever served, so rows with several of them, or with no image, are refused by number rather than trained on
in a shape nothing else has. Knows the prompt and the tokenizer, and nothing of training.
"""

from __future__ import annotations

import hashlib
import json
import os.path
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.answer import parse
from model.checkpoint import Interface
from model.decode import read_header
from model.evaluate.records.fakeclue import LABELS
from model.evaluate.records.sample import is_text, shown
from model.finetune.complaints import told
from model.prompt import Label, encode_answer

NAMED_AT_MOST = 20
LONGEST_NAME = 255  # bytes of one name in a path, on every file system in use


class InvalidRecords(ValueError):
    """Rows that cannot be trained on; the message names each by number (the first is 1), image and reason."""


def _whole(text: str) -> str:
    """JSON can spell half a character, which no tokenizer takes and no file is named by."""
    if not is_text(text):
        raise ValueError("the text has half a character in it (a lone surrogate, `\\ud83d` say): cut it out")
    return text


Text = Annotated[str, AfterValidator(_whole)]


class Turn(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)

    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: Text


class Record(BaseModel):
    """One row as the file has it."""

    model_config = ConfigDict(frozen=True)

    image: Text
    label: Literal[0, 1] | None = None
    conversations: tuple[Turn, Turn]

    @model_validator(mode="before")
    @classmethod
    def _is_one_image_and_one_turn(cls, value: Any) -> Any:
        """LLaVA's format knows more shapes; each is refused in words of its own."""
        if not isinstance(value, dict):
            return value
        images, turns = value.get("image", value.get("images")), value.get("conversations")
        if not images:
            raise ValueError("the row has no image, and this model is always asked about one: leave it out")
        if isinstance(images, list):
            raise ValueError(f"the row has a list of images ({len(images)}): this model sees one, make a row of each")
        if isinstance(turns, list) and len(turns) > 2:
            raise ValueError(
                f"the conversation has {len(turns)} turns, and this model is asked once: keep one question and answer"
            )
        return value


@dataclass(frozen=True)
class Row:
    """One row ready to train on: the image's path, and the answer's token ids, with EOS, as they follow the prompt."""

    image: Path
    answer: tuple[int, ...]
    label: Label


@dataclass(frozen=True)
class Records:
    """All rows of one data set. `digest` is a sha256 over every answer and every image's bytes, in order."""

    rows: tuple[Row, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.rows)


def read(path: Path, images: Path, checkpoint: Interface, max_length: int) -> Records:
    """Read and check all rows. Image headers are read, pixels are not: that would take hours on a large set.

    Raises InvalidRecords naming every bad row (the first 20 of them).
    """
    digest, rows, complaints = hashlib.sha256(), [], []
    for number, value in enumerate(_values(path), start=1):
        try:
            record = Record.model_validate(value)
            rows.append(_row(record, images, checkpoint, max_length))
            digest.update(record.conversations[1].value.encode() + rows[-1].image.read_bytes())
        except (ValueError, OSError) as error:
            complaints.append(f"row {number} ({_image(value)}): {_reason(error)}")
    if complaints:
        bad = f"{len(complaints):,} bad row{'s' * (len(complaints) > 1)}"
        more = f"\n… and {len(complaints) - NAMED_AT_MOST:,} more" if len(complaints) > NAMED_AT_MOST else ""
        listed = "\n".join(complaints[:NAMED_AT_MOST])
        raise InvalidRecords(f"{path} has {bad}, nothing was trained:\n{listed}{more}")
    if not rows:
        raise InvalidRecords(f"{path} has no rows.")
    return Records(tuple(rows), digest.hexdigest())


def _values(path: Path) -> Iterator[Any]:
    """Rows of a JSON list or of JSON lines. Raises InvalidRecords."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without the mark that Windows puts first
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRecords(f"{path} cannot be read as UTF-8 text: {error}") from error
    try:
        if text.lstrip().startswith("["):
            yield from json.loads(text)
        else:
            yield from _lines(text)
    except json.JSONDecodeError as error:
        raise InvalidRecords(f"{path} is neither a JSON list nor JSON lines: {error}") from error


def _lines(text: str) -> Iterator[Any]:
    """The value of each line that is not empty. Raises JSONDecodeError, which names the line."""
    at = 0
    for line in text.split("\n"):
        try:
            if line.strip():
                yield json.loads(line)
        except json.JSONDecodeError as error:
            raise json.JSONDecodeError(error.msg, text, at + error.pos) from error
        at += len(line) + 1


def _row(record: Record, images: Path, checkpoint: Interface, max_length: int) -> Row:
    question, answer = record.conversations
    prompt = checkpoint.manifest.prompt
    if (question.speaker, answer.speaker) != ("human", "gpt"):
        raise ValueError("the conversation must be one turn of `human`, then one of `gpt`")
    if question.value != prompt.text:
        raise ValueError(f"the question is {question.value!r}, but this checkpoint's prompt is {prompt.text!r}")
    label = _label(record, answer.value)
    opening = prompt.answer_start(label)
    if not answer.value.startswith(opening) or parse(answer.value) != label:
        raise ValueError(f"the label is {label}, so the answer must begin with {opening!r}")
    path = images / _inside(record.image)
    read_header(path)
    tokenizer = checkpoint.processor.tokenizer
    ids = (*encode_answer(tokenizer, prompt, answer.value), tokenizer.eos_token_id)
    if len(checkpoint.tokens.prompt) + len(ids) > max_length:
        raise ValueError(f"prompt and answer are {len(checkpoint.tokens.prompt) + len(ids)} tokens, over {max_length}")
    return Row(path, ids, label)


def _inside(image: str) -> str:
    """A name that stays in the images folder."""
    if Path(image).is_absolute() or ".." in Path(os.path.normpath(image)).parts:
        raise ValueError("the image must be named relative to the images folder, and lie in it")
    if any(len(name.encode()) > LONGEST_NAME for name in image.split("/")):
        raise ValueError(f"the image's name is longer than the {LONGEST_NAME} bytes that a file can have")
    return image


def _label(record: Record, answer: str) -> Label:
    if record.label is not None:
        return LABELS[record.label]
    reading = parse(answer)
    if reading == "unparsable":
        raise ValueError(
            "the row has no `label`, and its answer does not say plainly whether the image is real or fake"
        )
    return reading


def _image(value: Any) -> str:
    return shown(str(value.get("image", "no image")) if isinstance(value, dict) else "not an object")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return told(error)
    if isinstance(error, FileNotFoundError):
        return "the image file does not exist"
    return str(error)
