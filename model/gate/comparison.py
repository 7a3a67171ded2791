"""What two versions said of the same images, and how far apart they are: every difference with its 95 % interval.

Pairs are resampled by groups of alike images, both versions together; where images are few, a formula widens the
interval (`model.evaluate.intervals`). Images count 1/probability where they were sampled. It knows no rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.evaluate import intervals, metrics
from model.evaluate.intervals import CONFIDENCE, Flags, Interval, Numbers, Statistic, bootstrap, mean
from model.evaluate.journal import Record
from model.evaluate.metrics import Outcomes
from model.evaluate.summary import outcomes_of
from model.prompt import Label

SAME = ("id", "label", "category", "sha256")  # what both versions' rows of an image must agree in


class NotComparable(ValueError):
    """The two versions were not judged on the same images; the message says where they differ."""


@dataclass(frozen=True)
class Change:
    """A measure of both versions, and the challenger's minus the champion's with its interval; None: not defined."""

    champion: float | None
    challenger: float | None
    value: float | None
    low: float | None
    high: float | None
    images: int
    groups: int


@dataclass(frozen=True)
class Pair:
    """One entry per image that both versions judged, in the same order.

    `weight` is 1/probability where images were sampled. `rows` are those of `model.evaluate`, which also have answers
    and references. `failed` is how many images the champion judged and the challenger could not.
    """

    champion: Outcomes
    challenger: Outcomes
    weight: Numbers
    category: NDArray[np.str_]
    champion_rows: tuple[Record, ...]
    challenger_rows: tuple[Record, ...]
    failed: int = 0

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def fake(self) -> Flags:
        return self.champion.fake

    @property
    def groups(self) -> NDArray[np.str_]:
        """Each image's group, or for one without its own sha256."""
        assert self.champion.groups is not None
        return self.champion.groups

    def where(self, which: Flags) -> Self:
        """The images that `which` marks."""
        places = np.flatnonzero(which)
        return replace(
            self,
            champion=self.champion.where(which),
            challenger=self.challenger.where(which),
            weight=self.weight[which],
            category=self.category[which],
            champion_rows=tuple(self.champion_rows[place] for place in places),
            challenger_rows=tuple(self.challenger_rows[place] for place in places),
        )

    def plus(self, other: Pair) -> Pair:
        """Both, and each image once: what is in both sets is the same image."""
        rows = [*zip(self.champion_rows, self.challenger_rows, strict=True)]
        known = {row["sha256"] for row, _ in rows}
        theirs = zip(other.champion_rows, other.challenger_rows, strict=True)
        rows += [each for each in theirs if each[0]["sha256"] not in known]
        return _paired(rows, self.failed + other.failed)

    def independent(self, label: Label) -> float:
        """How many groups have an image that is `label`; where some count for more, how many equal ones they are worth.

        Kish's (1965) effective number: ten audited images that count fifty each decide alone, however many there are.
        """
        which = self.champion.truth == label
        _, member = np.unique(self.groups[which], return_inverse=True)
        weight = np.bincount(member, self.weight[which]) / np.bincount(member)
        return float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0


def pair(champion: Sequence[Record], challenger: Sequence[Record]) -> Pair:
    """Rows of the same images, in any order; images that the champion could not judge are left out.

    A row may have a `weight`, 1/probability of having been sampled. Raises NotComparable where images, or what is said
    to be true of them, differ.
    """
    theirs = {row["id"]: row for row in challenger}
    if len(theirs) != len(challenger) or {row["id"] for row in champion} != theirs.keys():
        raise NotComparable("Champion and challenger were judged on other images: judge both on the same holdout.")
    rows = [(row, theirs[row["id"]]) for row in champion if _is_judged(row)]
    for ours, other in rows:
        if differing := [name for name in SAME if other["error"] is None and ours[name] != other[name]]:
            raise NotComparable(f"Of {ours['id']} the two versions' rows have another {' and '.join(differing)}.")
    both = [each for each in rows if _is_judged(each[1])]
    return _paired(both, len(rows) - len(both))


def share(pairs: Pair, before: Flags, after: Flags, confidence: float = CONFIDENCE) -> Change:
    """Of a share of images: how many were hit by the champion, and how many are by the challenger."""
    if not len(pairs):
        return _undefined(pairs)
    difference = after.astype(np.float64) - before
    value = mean(difference, pairs.weight)
    drawn = bootstrap(lambda times: mean(difference, times * pairs.weight), pairs.groups, confidence=confidence)
    interval = intervals.wider(drawn, _formula(pairs, before, after, confidence))
    return Change(_mean(before, pairs), _mean(after, pairs), value, *interval, len(pairs), _groups(pairs))


def right(pairs: Pair, confidence: float = CONFIDENCE) -> Change:
    """Of accuracy, by the score at 0.5."""
    return share(pairs, pairs.champion.right, pairs.challenger.right, confidence)


def recall(pairs: Pair, label: Label) -> Change:
    """Of the images that are `label`, the share called so."""
    return right(pairs.where(pairs.champion.truth == label))


def balanced(pairs: Pair) -> Change:
    """Of balanced accuracy: the mean of both classes' changes."""
    halves = [pairs.where(pairs.champion.truth == label) for label in metrics.LABELS]
    if not all(map(len, halves)):
        return _undefined(pairs)
    before, after = (
        _weighted(metrics.weighted_balance(each), pairs.weight) for each in (pairs.champion, pairs.challenger)
    )
    found = _difference(before, after, pairs)
    if found.value is None or found.low is None or found.high is None:
        return found
    one, other = (_formula(half, half.champion.right, half.challenger.right) for half in halves)
    values = tuple(mean(half.challenger.right - half.champion.right.astype(np.float64), half.weight) for half in halves)
    low, high = intervals.wider((found.low, found.high), intervals.half_sum(one, other, (values[0], values[1])))
    return replace(found, low=low, high=high)


def area(pairs: Pair) -> Change:
    """Of the area under the ROC curve of the raw logit, which no calibration and no threshold changes."""
    if pairs.fake.all() or not pairs.fake.any():
        return _undefined(pairs)
    before, after = (
        _weighted(metrics.weighted_area(pairs.fake, each.logit), pairs.weight)
        for each in (pairs.champion, pairs.challenger)
    )
    return _difference(before, after, pairs)


def average(pairs: Pair, before: Sequence[float], after: Sequence[float]) -> Change:
    """Of the mean of a number per image."""
    if not len(pairs):
        return _undefined(pairs)
    one, other = np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)
    return _difference(
        lambda times: mean(one, times * pairs.weight), lambda times: mean(other, times * pairs.weight), pairs
    )


def calibration_error(pairs: Pair) -> Change:
    """The challenger's expected calibration error beside the champion's. The interval is that of the challenger's own.

    Noise never cancels in it, so it is the basic interval, as in `metrics.calibration_error`.
    """
    if not len(pairs):
        return _undefined(pairs)
    before, after = (
        _weighted(metrics.weighted_calibration_error(pairs.fake, each.p_fake), pairs.weight)
        for each in (pairs.champion, pairs.challenger)
    )
    ones = np.ones(len(pairs))
    value = after(ones)
    low, high = intervals.basic(value, bootstrap(after, pairs.groups))
    return Change(before(ones), value, value, low, high, len(pairs), _groups(pairs))


def _paired(rows: Sequence[tuple[Record, Record]], failed: int) -> Pair:
    ours, theirs = [row for row, _ in rows], [row for _, row in rows]
    groups = np.array(
        [f"image {row['sha256']}" if row["group"] is None else f"group {row['group']}" for row in ours], dtype=np.str_
    )
    return Pair(
        champion=replace(outcomes_of(ours, "scored"), groups=groups),
        challenger=replace(outcomes_of(theirs, "scored"), groups=groups),
        weight=np.array([row.get("weight", 1.0) for row in ours], dtype=np.float64),
        category=np.array([row["category"] for row in ours], dtype=np.str_),
        champion_rows=tuple(ours),
        challenger_rows=tuple(theirs),
        failed=failed,
    )


def _is_judged(row: Record) -> bool:
    """A score that is no number is no verdict."""
    return row["error"] is None and bool(np.isfinite([row["logit"], row["p_fake"]]).all())


def _weighted(statistic: Statistic, weight: Numbers) -> Statistic:
    return lambda times: statistic(times * weight)


def _difference(before: Statistic, after: Statistic, pairs: Pair) -> Change:
    ones = np.ones(len(pairs))
    values = before(ones), after(ones)
    if not np.isfinite(values).all():
        return _undefined(pairs)
    low, high = bootstrap(lambda times: after(times) - before(times), pairs.groups)
    return Change(*values, values[1] - values[0], low, high, len(pairs), _groups(pairs))


def _formula(pairs: Pair, before: Flags, after: Flags, confidence: float = CONFIDENCE) -> Interval:
    """For few images; weighted ones are worth Kish's effective number."""
    total = pairs.weight.sum()
    worth = total**2 / (pairs.weight**2).sum()
    gained, lost = (float(worth * (pairs.weight @ each) / total) for each in (after & ~before, before & ~after))
    return intervals.paired(gained, lost, float(worth), confidence)


def _mean(hits: Flags, pairs: Pair) -> float:
    return mean(hits.astype(np.float64), pairs.weight)


def _groups(pairs: Pair) -> int:
    return len(set(pairs.groups))


def _undefined(pairs: Pair) -> Change:
    return Change(None, None, None, None, None, len(pairs), _groups(pairs))


Measure = Callable[[Pair], Change]
