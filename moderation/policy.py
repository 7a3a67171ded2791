"""From a verdict to a decision: two thresholds, and a person for what lies between. Pure functions over numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moderation.vocabulary import ExplainMode, Label, ReviewReason


@dataclass(frozen=True)
class Thresholds:
    """p_fake ≥ `fake_from` is fake, p_fake ≤ `real_up_to` is real, between is a review.

    Below `min_pair_mass` (the probability the model gives to its two verdict words together, 0 to 1) the model was not
    answering the question, and the score means nothing: a review too.
    """

    fake_from: float = 0.85
    real_up_to: float = 0.15
    min_pair_mass: float = 0.5
    explain: ExplainMode = ExplainMode.ALWAYS


@dataclass(frozen=True)
class Outcome:
    """Either a label, or the reason a person must look."""

    label: Label | None = None
    review: ReviewReason | None = None


def judge(p_fake: float, pair_mass: float, thresholds: Thresholds) -> Outcome:
    """What the policy makes of a score. Never guesses."""
    # Not a number is no answer either, and compares as false with every threshold.
    if pair_mass < thresholds.min_pair_mass or math.isnan(pair_mass) or math.isnan(p_fake):
        return Outcome(review=ReviewReason.UNPARSABLE)
    if p_fake >= thresholds.fake_from:
        return Outcome(label=Label.FAKE)
    if p_fake <= thresholds.real_up_to:
        return Outcome(label=Label.REAL)
    return Outcome(review=ReviewReason.UNCERTAIN)


def wants_explanation(outcome: Outcome, mode: ExplainMode) -> bool:
    """Whether the explanation is generated along with the verdict."""
    if mode is ExplainMode.ALWAYS:
        return True
    if mode is ExplainMode.FLAGGED:
        return outcome.label is not Label.REAL
    return outcome.review is not None
