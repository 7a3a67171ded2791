"""FakeClue's records: `{"image", "label", "cate", "conversations"}`, where label 0 is fake and 1 is real.

The turn of `gpt` is the reference explanation. A record may name the `group` (or, as the demo's do, the `photo`) that
its image is one of several of. Other fields are ignored; a record whose `cate`, conversations or group are missing or
wrong is measured without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from model.evaluate.records.sample import Found, Row, Sample, collect, existing
from model.prompt import Label

NAME = "FakeClue"
FIELDS = ("image", "label")  # what no record can do without
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
    conversations: list[Turn] | None = None
    group: str | None = Field(default=None, validation_alias=AliasChoices("group", "photo"))

    @field_validator("label")
    @classmethod
    def _is_known(cls, label: int) -> int:
        if label not in LABELS:
            raise ValueError("0 (fake) or 1 (real) is expected")
        return label

    @field_validator("cate", "conversations", "group", mode="wrap")
    @classmethod
    def _or_none(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """Image and label are enough to measure by: what else is wrong is done without."""
        try:
            return validate(value)
        except ValidationError:
            return None


def fits(value: Any) -> bool:
    """Whether this looks like one of FakeClue's records, good or bad."""
    return isinstance(value, dict) and "image" in value and ("label" in value or "conversations" in value)


def read(rows: Sequence[Row], images: Path) -> Found:
    """A sample for each record whose image lies below `images`."""
    return collect(rows, lambda row: _sample(row, images), _image)


def _sample(row: Row, images: Path) -> Sample:
    record = Record.model_validate(row.value)
    answers = [turn.value for turn in record.conversations or () if turn.speaker == "gpt"]
    return Sample(
        place=row.place,
        id=record.image,
        image=record.image,
        path=existing(images, record.image),
        label=LABELS[record.label],
        category=record.cate or "all",
        references=tuple(answers[:1]),
        group=record.group or None,
    )


def _image(value: Any) -> str:
    return str(value.get("image", "")) if isinstance(value, dict) else ""
