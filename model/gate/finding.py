"""One rule's answer, with everything it was answered from, for a machine and in words for a person."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from model.gate.comparison import Change

# unsure: too few images to tell, or nothing measured; a person must look. left out: there is nothing to judge.
Answer = Literal["pass", "unsure", "fail", "left out"]


class Finding(BaseModel):
    """`change` is the challenger's value minus the champion's; `low` and `high` are its 95 % interval.

    Of a calibration error and of shares that are bounded by themselves, they are the interval of the challenger's own.
    Shares, ROUGE-L, CSS and areas are 0 to 1; speeds are images per second. `allowed` is the margin that the measured
    value was held against, `excluded` the one for the interval's worse end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    title: str
    answer: Answer
    reason: str
    unit: Literal["share", "images/s", "none"] = "share"
    champion: float | None = None
    challenger: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    allowed: float | None = None
    excluded: float | None = None
    images: int | None = None
    groups: int | None = None


def of(change: Change) -> dict[str, Any]:
    """The fields of a finding that come from a measured change."""
    return {
        "champion": change.champion,
        "challenger": change.challenger,
        "change": change.value,
        "low": change.low,
        "high": change.high,
        "images": change.images,
        "groups": change.groups,
    }
