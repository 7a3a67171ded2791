"""From calibrated scores whose truth is known to two thresholds that hold a target precision: a proposal, never more.

Selective classification with a guarantee (Geifman and El-Yaniv 2017), by fixed-sequence testing (Angelopoulos et al.
2021, "Learn then Test"): thresholds of a grid that is fixed beforehand are tested from the strictest on, each by the
exact one-sided bound of Clopper and Pearson (1934), and the last before the first that fails is proposed. Beyond the
strictest ones lie few images, among which one mistake would end it, so that two searches start at two places, each with
half of the chance to be wrong: where just enough images lie to show the target, and where three times as many do. The
guarantee is exact for images that were drawn alike, if images with higher scores are not less often fake; which ones
are taken must not have been used to train or to calibrate.

Weighted and alike images are worth fewer: Kish's effective number, with groups as units, takes their place in the bound
(Korn and Graubard 1998), as if a group's images were one. That is an approximation, on the safe side.

`tests/model/test_thresholds.py` draws images again and again, most with scores near 0 or 1, and counts how often a
threshold misses a target of 0.95 at a confidence of 0.95. Over 200 draws: 1 % of 2000 images and 1 % of 600, none of
4000 of which sure ones were sampled at 1 in 4, none of 800 that are there three times (25 % of 200 that are there six
times, where nobody says so). A threshold was proposed for either side in 100, 41, 78 and 64 % of the draws.
It knows nothing of policies: `moderation` has those, and a person adopts a proposal or does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.evaluate.intervals import Flags, Groups, Numbers, proportion_at_least

Side = Literal["fake", "real"]

# From the strictest on; p_fake from which on an image is decided fake, and for reals 1 − it.
GRID = tuple(round(1 - step / 200, 3) for step in range(1, 101))  # 0.995, 0.990 … 0.500
STARTS = (1, 3)  # times as many images as show the target if all are right
TARGET = 0.95
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Judged:
    """One entry per image: its calibrated p_fake, the truth, what it counts (1/probability), its group."""

    p_fake: Numbers
    fake: Flags
    weight: Numbers | None = None
    groups: Groups | None = None

    @property
    def weights(self) -> Numbers:
        return np.ones(len(self.p_fake)) if self.weight is None else self.weight

    @property
    def units(self) -> Groups:
        return np.arange(len(self.p_fake)) if self.groups is None else self.groups


@dataclass(frozen=True)
class Bound:
    """What is known of the images beyond one threshold.

    `precision` is the share that is what it would be decided to be, `at_least` its lower end at the stated confidence.
    `images` lie beyond, worth `effective` ones; `share` is how many of all, by weight.
    """

    threshold: float
    precision: float
    at_least: float
    images: int
    effective: float
    share: float


@dataclass(frozen=True)
class Half:
    """One of the two thresholds: what is proposed, or why nothing is.

    `more_reviews` estimates how many further reviewed images, sampled as these were, would do; None where a bound is
    there, and where more of them would not help.
    """

    side: Side
    bound: Bound | None
    more_reviews: int | None
    reason: str


@dataclass(frozen=True)
class Proposal:
    """p_fake ≥ `fake_from` is fake, p_fake ≤ `real_up_to` is real, the rest goes to people.

    Both precisions are at least `target`, with `confidence` for both together. A threshold that cannot be had is None:
    then nothing is to be decided on that side.
    """

    target: float
    confidence: float
    fake: Half
    real: Half

    @property
    def fake_from(self) -> float | None:
        return self.fake.bound.threshold if self.fake.bound else None

    @property
    def real_up_to(self) -> float | None:
        return self.real.bound.threshold if self.real.bound else None

    @property
    def decided(self) -> float:
        """The share of images that would be decided without a person."""
        return sum(half.bound.share for half in (self.fake, self.real) if half.bound)


def propose(judged: Judged, target: float = TARGET, confidence: float = CONFIDENCE) -> Proposal:
    """The widest thresholds that hold `target` with `confidence`; the rest of the chance is shared by sides and starts.

    Raises ValueError for a target or confidence outside 0.5 to 1.
    """
    if not (0.5 <= target < 1 and 0.5 <= confidence < 1):
        raise ValueError("Target precision and confidence lie from 0.5 to below 1, such as 0.95.")
    error = (1 - confidence) / 2 / len(STARTS)
    halves = [_half(judged, side, target, error) for side in ("fake", "real")]
    return Proposal(target, confidence, *halves)


def least(target: float, error: float) -> int:
    """So many images, all of them right, show a precision of `target` with a chance of `error` to be wrong."""
    return math.ceil(math.log(error) / math.log(target))


def _half(judged: Judged, side: Side, target: float, error: float) -> Half:
    bounds = list(_bounds(judged, side, error))
    found = [_search(bounds, target, times * least(target, error)) for times in STARTS]
    proposed = max((bound for bound in found if bound), key=lambda bound: bound.share, default=None)
    if proposed:
        said = "p_fake ≥" if side == "fake" else "p_fake ≤"
        return Half(
            side,
            proposed,
            None,
            f"{said} {proposed.threshold:g}: {proposed.precision:.1%} of {proposed.images} images were {side}, at "
            f"least {proposed.at_least:.1%} at this confidence; {proposed.share:.0%} of all images lie there.",
        )
    return _nothing(judged, bounds, side, target, error)


def _search(bounds: Sequence[Bound], target: float, enough: float) -> Bound | None:
    """The last bound that holds before the first that does not, from the first beyond which enough images lie on.

    Where it starts depends on how many images there are, never on what is true of them.
    """
    proposed: Bound | None = None
    for bound in bounds:
        if bound.effective < enough - 1e-9:
            continue
        if bound.at_least < target:
            break
        proposed = bound
    return proposed


def _nothing(judged: Judged, bounds: Sequence[Bound], side: Side, target: float, error: float) -> Half:
    """How far the most promising threshold is from its target."""
    found = [bound for bound in bounds if bound.precision > target]
    if not found:
        return Half(
            side,
            None,
            None,
            f"No threshold had more than {target:.0%} right among the images that would be decided {side}: more "
            "reviews alone will not help, the score must become better.",
        )
    wanted = {bound: _images_for(bound.precision, target, error) / bound.effective for bound in found}
    nearest = min(wanted, key=wanted.__getitem__)
    more = math.ceil(len(judged.p_fake) * (max(wanted[nearest], 1.0) - 1)) or 1
    return Half(
        side,
        None,
        more,
        f"Too few images to tell: the {nearest.images} at {nearest.threshold:g} were {nearest.precision:.1%} {side}, "
        f"which shows no more than {nearest.at_least:.1%}. About {more:,} more reviews like these would do, if it "
        "stays so.",
    )


def _bounds(judged: Judged, side: Side, error: float) -> Iterator[Bound]:
    """For each threshold of the grid, from the strictest on; without those beyond which there is no image."""
    score, hit = (judged.p_fake, judged.fake) if side == "fake" else (1 - judged.p_fake, ~judged.fake)
    names, member = np.unique(judged.units, return_inverse=True)
    for step in GRID:
        beyond = score >= step - 1e-12
        if not beyond.any():
            continue
        weight = judged.weights * beyond
        by_group = np.bincount(member, weight, len(names))
        effective = float(weight.sum() ** 2 / (by_group**2).sum())
        precision = float(weight @ hit / weight.sum())
        yield Bound(
            threshold=step if side == "fake" else round(1 - step, 3),
            precision=precision,
            at_least=proportion_at_least(precision * effective, effective, error),
            images=int(beyond.sum()),
            effective=effective,
            share=float(weight.sum() / judged.weights.sum()),
        )


def _images_for(precision: float, target: float, error: float) -> float:
    """So many images at this precision would show the target; `precision` is above it."""
    low, high = 1.0, 2.0
    while proportion_at_least(precision * high, high, error) < target:
        high *= 2
    while high - low > 0.5:
        middle = (low + high) / 2
        enough = proportion_at_least(precision * middle, middle, error) >= target
        low, high = (low, middle) if enough else (middle, high)
    return high
