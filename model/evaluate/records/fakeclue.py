"""FakeClue's records: `{"image", "label", "cate", "conversations"}`, where label 0 is fake and 1 is real.

The turn of `gpt` is the reference explanation. A record may name the `group` (or, as the demo's do, the `photo`) that
its image is one of several of. Other fields are ignored; a set without `cate` or conversations is measured without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from model.evaluate.records.sample import Found, Row, Sample, collect, existing
from model.prompt import Label

NAME = "FakeClue"
LABELS: dict[int, Label] = {0: "fake", 1: "real"}


class Turn(BaseModel):
    """What one side says."""

    model_config = ConfigDict(strict=True)

    speaker: str = Field(alias="from")
    value: str


class Record(BaseModel):
    """One record as the file has it."""

    model_config = ConfigDict(strict=True)

    image: str = Field(min_length=1)
    label: int
    cate: str | None = None
    conversations: list[Turn] = []
    group: str | None = Field(default=None, validation_alias=AliasChoices("group", "photo"))

    @field_validator("label")
    @classmethod
    def _is_known(cls, label: int) -> int:
        if label not in LABELS:
            raise ValueError("0 (fake) or 1 (real) is expected")
        return label


def fits(value: Any) -> bool:
    """Whether this looks like one of FakeClue's records, good or bad."""
    return isinstance(value, dict) and "image" in value and ("label" in value or "conversations" in value)


def read(rows: Sequence[Row], images: Path) -> Found:
    """A sample for each record whose image lies below `images`."""
    return collect(rows, lambda row: _sample(row, images), _image)


def _sample(row: Row, images: Path) -> Sample:
    record = Record.model_validate(row.value)
    answers = [turn.value for turn in record.conversations if turn.speaker == "gpt"]
    return Sample(
        place=row.place,
        id=record.image,
        image=record.image,
        path=existing(images / record.image),
        label=LABELS[record.label],
        category=record.cate or "all",
        references=tuple(answers[:1]),
        group=record.group,
    )


def _image(value: Any) -> str:
    return str(value.get("image", "")) if isinstance(value, dict) else ""
