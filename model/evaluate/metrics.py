"""Every measure of verdicts, each with its 95 % interval. The only place in the package that computes one.

Points come from scikit-learn where it has the measure. Resampled values are computed from weights here, because a
bootstrap asks a thousand times and scikit-learn takes milliseconds; the tests hold both against each other. It knows
nothing of images, records or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, recall_score, roc_auc_score

from model.evaluate import intervals
from model.evaluate.intervals import Flags, Groups, Interval, Numbers, Statistic, bootstrap, mean, proportion
from model.prompt import Label

LABELS: tuple[Label, Label] = ("real", "fake")
OUTCOMES = ("real", "fake", "unparsable")
BINS = 10

# Half-widths of the abstain band around p_fake = 0.5: images inside it go to a person.
BANDS = tuple(step / 20 for step in range(10))

# Below it the network would rather have said something else than real or fake, and the score says little.
LOW_PAIR_MASS = 0.5


@dataclass(frozen=True)
class Estimate:
    """A measure, its 95 % interval, and over how many images; None where it is not defined (no image of a class)."""

    value: float | None
    low: float | None
    high: float | None
    images: int


@dataclass(frozen=True)
class Outcomes:
    """One entry per image that was judged.

    `fake` is the truth. `predicted` is real, fake or unparsable. `p_fake` is calibrated, 0 to 1; `logit` raw;
    `pair_mass` 0 to 1. `groups` names each image's group, or is None where the set has none.
    """

    fake: Flags
    predicted: NDArray[np.str_]
    p_fake: Numbers
    logit: Numbers
    pair_mass: Numbers
    groups: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.fake)

    @property
    def truth(self) -> NDArray[np.str_]:
        """`real` or `fake`, per image."""
        return np.where(self.fake, "fake", "real")

    @property
    def right(self) -> Flags:
        """Whether what was predicted is the truth; unparsable never is."""
        return np.equal(self.predicted, self.truth)

    @property
    def units(self) -> Groups:
        """What a bootstrap draws: groups, or single images."""
        return np.arange(len(self)) if self.groups is None else self.groups

    def where(self, which: Flags) -> Outcomes:
        """The images that `which` marks."""
        return Outcomes(
            fake=self.fake[which],
            predicted=self.predicted[which],
            p_fake=self.p_fake[which],
            logit=self.logit[which],
            pair_mass=self.pair_mass[which],
            groups=None if self.groups is None else self.groups[which],
        )


@dataclass(frozen=True)
class Bin:
    """Images whose p_fake lies from `low` to below `high`: their mean p_fake, and the share that is fake."""

    low: float
    high: float
    mean_p: float | None
    fake: Estimate


@dataclass(frozen=True)
class Coverage:
    """What is left when images with |p_fake − 0.5| below `band` are left to people: its share, and its accuracy."""

    band: float
    covered: Estimate
    accuracy: Estimate


def measure(outcomes: Outcomes, names: Sequence[str] = ()) -> dict[str, Estimate]:
    """The named measures of a set of verdicts, all of `MEASURES` where none is named."""
    return {name: MEASURES[name](outcomes) for name in names or MEASURES}


def accuracy(outcomes: Outcomes) -> Estimate:
    """The share of images judged rightly; an unparsable answer is wrong."""
    return share(outcomes.right, outcomes.groups)


def recall(outcomes: Outcomes, label: Label) -> Estimate:
    """Of the images that are `label`, the share that was called so."""
    return accuracy(outcomes.where(outcomes.truth == label))


def precision(outcomes: Outcomes, label: Label) -> Estimate:
    """Of the images that were called `label`, the share that is so."""
    return accuracy(outcomes.where(outcomes.predicted == label))


def f1(outcomes: Outcomes, label: Label) -> Estimate:
    """The harmonic mean of precision and recall."""
    truly, called = outcomes.truth == label, outcomes.predicted == label
    either = int((truly | called).sum())
    if not either:
        return Estimate(None, None, None, len(outcomes))
    formula = intervals.harmonic(int((truly & called).sum()), either)
    return _bootstrapped(f1_score(truly, called), weighted_f1(truly, called), outcomes, formula)


def weighted_f1(truly: Flags, called: Flags) -> Statistic:
    """`f1_score` as a function of weights: twice what is both, over what is either."""
    both, either = (truly & called).astype(np.float64), truly.astype(np.float64) + called
    return lambda times: float(2 * (both @ times) / total) if (total := either @ times) else float("nan")


def balanced_accuracy(outcomes: Outcomes) -> Estimate:
    """The mean of both classes' recall, which does not depend on how many of each there are."""
    if _is_one_class(outcomes):
        return Estimate(None, None, None, len(outcomes))
    value = recall_score(outcomes.truth, outcomes.predicted, labels=LABELS, average="macro")
    real, fake = ((int(outcomes.right[of].sum()), int(of.sum())) for of in (~outcomes.fake, outcomes.fake))
    return _bootstrapped(value, weighted_balance(outcomes), outcomes, intervals.mean_of_two(real, fake))


def weighted_balance(outcomes: Outcomes) -> Statistic:
    """Balanced accuracy as a function of weights."""
    right, fake = outcomes.right.astype(np.float64), outcomes.fake
    return lambda times: (mean(right, times * fake) + mean(right, times * ~fake)) / 2


def confusion(outcomes: Outcomes) -> dict[str, dict[str, int]]:
    """How many images of each truth got each outcome."""
    if not len(outcomes):
        return {truth: dict.fromkeys(OUTCOMES, 0) for truth in LABELS}
    table = confusion_matrix(outcomes.truth, outcomes.predicted, labels=OUTCOMES)
    return {
        truth: {name: int(count) for name, count in zip(OUTCOMES, table[row], strict=True)}
        for row, truth in enumerate(LABELS)
    }


def area(outcomes: Outcomes) -> Estimate:
    """Area under the ROC curve of the raw logit: how often a fake scores above a real image, ties counting half."""
    if _is_one_class(outcomes):
        return Estimate(None, None, None, len(outcomes))
    value = float(roc_auc_score(outcomes.fake, outcomes.logit))
    formula = intervals.area(value, int(outcomes.fake.sum()), int((~outcomes.fake).sum()))
    return _bootstrapped(value, weighted_area(outcomes.fake, outcomes.logit), outcomes, formula)


def weighted_area(fake: Flags, logit: Numbers) -> Statistic:
    """`roc_auc_score` as a function of weights, by counting pairs (Mann and Whitney 1947)."""
    _, rank = np.unique(logit, return_inverse=True)

    def statistic(times: Numbers) -> float:
        fakes = np.bincount(rank, times * fake)
        reals = np.bincount(rank, times * ~fake)
        pairs = fakes.sum() * reals.sum()
        return float(fakes @ (reals.cumsum() - reals / 2) / pairs) if pairs else float("nan")

    return statistic


def calibration_error(outcomes: Outcomes) -> Estimate:
    """Expected calibration error of p_fake over ten equal bins (Naeini et al. 2015), 0 to 1.

    Noise in a bin never cancels, so that draws lie above the value; the basic interval allows for it.
    """
    if not len(outcomes):
        return Estimate(None, None, None, 0)
    statistic = weighted_calibration_error(outcomes.fake, outcomes.p_fake)
    value = statistic(np.ones(len(outcomes)))
    return _estimate(value, intervals.basic(value, bootstrap(statistic, outcomes.units)), len(outcomes))


def weighted_calibration_error(fake: Flags, p_fake: Numbers) -> Statistic:
    """The sum over bins of |Σ (p − fake)|, per image: the same as the bins' gaps weighted by their share."""
    bins, gap = which_bin(p_fake), p_fake - fake

    def statistic(times: Numbers) -> float:
        total = times.sum()
        return float(np.abs(np.bincount(bins, times * gap)).sum() / total) if total else float("nan")

    return statistic


def which_bin(p_fake: Numbers) -> NDArray[np.int64]:
    """The bin of each score, 0 to 9; 1.0 is in the last."""
    return np.minimum((p_fake * BINS).astype(np.int64), BINS - 1)


def reliability(outcomes: Outcomes) -> list[Bin]:
    """What a reliability plot shows, bin by bin; empty bins too."""
    bins = which_bin(outcomes.p_fake)
    found = []
    for index in range(BINS):
        inside = outcomes.where(bins == index)
        mean_p = float(inside.p_fake.mean()) if len(inside) else None
        found.append(Bin(index / BINS, (index + 1) / BINS, mean_p, share(inside.fake, inside.groups)))
    return found


def coverage(outcomes: Outcomes) -> list[Coverage]:
    """Accuracy against coverage, for every band of `BANDS`."""
    found = []
    for band in BANDS:
        kept = np.abs(outcomes.p_fake - 0.5) >= band
        rest = outcomes.where(kept)
        found.append(Coverage(band, share(kept, outcomes.groups), share(rest.right, rest.groups)))
    return found


def share(hits: Flags, groups: Groups | None) -> Estimate:
    """A proportion of images; not defined where there are none."""
    if not len(hits):
        return Estimate(None, None, None, 0)
    return _estimate(float(hits.mean()), proportion(hits, groups), len(hits))


def average(values: Sequence[float], groups: Groups | None) -> Estimate:
    """A mean over images, with a bootstrap interval; not defined where there are none."""
    numbers = np.array(values, dtype=np.float64)
    if not len(numbers):
        return Estimate(None, None, None, 0)
    units = np.arange(len(numbers)) if groups is None else groups
    return _estimate(float(numbers.mean()), bootstrap(lambda times: mean(numbers, times), units), len(numbers))


def change(before: Flags, after: Flags, groups: Groups | None) -> Estimate:
    """How much the share of hits changed on the same images: the mean of the paired differences."""
    drawn = average((after.astype(np.float64) - before).tolist(), groups)
    if drawn.value is None or drawn.low is None or drawn.high is None:
        return drawn
    formula = intervals.paired(float((after & ~before).sum()), float((before & ~after).sum()), len(before))
    return _estimate(drawn.value, intervals.wider((drawn.low, drawn.high), formula), len(before))


def _is_one_class(outcomes: Outcomes) -> bool:
    return bool(outcomes.fake.all() or not outcomes.fake.any())


def _bootstrapped(value: float, statistic: Statistic, outcomes: Outcomes, formula: Interval) -> Estimate:
    """With the bootstrap's interval and that of a formula, whichever end is further."""
    drawn = bootstrap(statistic, outcomes.units)
    return _estimate(float(value), intervals.wider(drawn, formula), len(outcomes))


def _estimate(value: float, interval: Interval, images: int) -> Estimate:
    if not np.isfinite(value):
        return Estimate(None, None, None, images)
    return Estimate(value, *interval, images)


def _low_pair_mass(outcomes: Outcomes) -> Estimate:
    return share(outcomes.pair_mass < LOW_PAIR_MASS, outcomes.groups)


MEASURES: dict[str, Callable[[Outcomes], Estimate]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    **{f"precision_{label}": partial(precision, label=label) for label in LABELS},
    **{f"recall_{label}": partial(recall, label=label) for label in LABELS},
    **{f"f1_{label}": partial(f1, label=label) for label in LABELS},
    "auroc": area,
    "calibration_error": calibration_error,
    "low_pair_mass": _low_pair_mass,
}
