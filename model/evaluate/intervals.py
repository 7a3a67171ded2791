"""95 % intervals, the only place they are made: a bootstrap, and where there is one the formula for few images.

A bootstrap alone would call 20 right of 20 certain; a formula alone would count alike images as many. So whichever end
is further counts (`wider`).

Images that are alike (one video's frames, one photo's crops) are one observation, not many: where groups are known,
groups are drawn, each with all its images. Every draw comes from one fixed seed, so that a result can be had again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv
from scipy.stats import binomtest, norm

RESAMPLES = 1000
SEED = 0
CONFIDENCE = 0.95
NEARLY_NONE = 1e-9  # how near to 0 and 1 an end is looked for: there the equations are solved by 0 and 1 as well

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Groups = NDArray[np.str_] | NDArray[np.int64]
Interval = tuple[float, float]

# A measure, of how often each image counts: all ones give its value, a draw's counts give it resampled.
Statistic = Callable[[Numbers], float]


def bootstrap(
    statistic: Statistic, groups: Groups, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval:
    """The percentile interval of a statistic when groups are drawn with replacement (Efron and Tibshirani 1993).

    `groups` names each image's group; for images that have none, `np.arange(images)`. A draw in which the statistic is
    not defined (no image of one class) is left out; nan where none is left.
    """
    rng = np.random.default_rng(SEED)
    names, member = np.unique(groups, return_inverse=True)
    draws = (np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)) for _ in range(resamples))
    values = np.array([statistic(times[member].astype(np.float64)) for times in draws])
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def wilson(hits: int, images: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), which stays within 0 to 1 and holds for few images."""
    found = binomtest(hits, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def proportion(hits: Flags, groups: Groups | None) -> Interval:
    """Wilson's interval, and where groups are known the bootstrap's too, whichever end is further."""
    alone = wilson(int(hits.sum()), len(hits))
    if groups is None:
        return alone
    return wider(alone, bootstrap(lambda times: mean(hits.astype(np.float64), times), groups))


def wider(one: Interval, other: Interval) -> Interval:
    """Whichever end is further; an end that is nan is none."""
    low, high = np.fmin(one[0], other[0]), np.fmax(one[1], other[1])
    return float(low), float(high)


def basic(value: float, drawn: Interval) -> Interval:
    """The basic bootstrap interval (Davison and Hinkley 1997, 5.2.1) of what is 0 to 1, from the percentile interval.

    Where noise moves every draw one way, as it does a calibration error's, this moves the interval back. It is clipped
    to 0 and 1, and reaches as far as the value.
    """
    low, high = 2 * value - drawn[1], 2 * value - drawn[0]
    return max(0.0, min(low, value)), min(1.0, max(high, value))


def mean_of_two(one: tuple[int, int], other: tuple[int, int]) -> Interval:
    """Of the mean of two independent proportions, each as hits and images, by squares added (Newcombe 1998, method 10).

    Zou and Donner 2008 have the general form, here for half the sum, of Wilson's intervals.
    """
    return half_sum(wilson(*one), wilson(*other), (one[0] / one[1], other[0] / other[1]))


def paired(gained: float, lost: float, images: float, confidence: float = CONFIDENCE) -> Interval:
    """Of the change of a proportion on the same images (Bonett and Price 2012, J. Educ. Behav. Stat. 37: 479).

    `gained` images were hit afterwards only, `lost` ones before only; they need not be whole where images are weighted.
    One is added to both and two to the images, so that no change on few images is not taken for none on all.
    """
    up, down, all_ = (gained + 1) / (images + 2), (lost + 1) / (images + 2), images + 2
    reach = float(norm.ppf((1 + confidence) / 2)) * math.sqrt((up + down - (up - down) ** 2) / all_)
    return max(-1.0, up - down - reach), min(1.0, up - down + reach)


def half_sum(one: Interval, other: Interval, values: tuple[float, float]) -> Interval:
    """Of the mean of two independent quantities that have these intervals and values, by squares added."""
    down = math.hypot(values[0] - one[0], values[1] - other[0]) / 2
    up = math.hypot(one[1] - values[0], other[1] - values[1]) / 2
    return sum(values) / 2 - down, sum(values) / 2 + up


def proportion_at_least(hits: float, images: float, error: float) -> float:
    """The lower end of a proportion, too high with a chance of `error` at most (Clopper and Pearson 1934, one-sided).

    `hits` and `images` may be effective numbers, for weighted or alike images (Korn and Graubard 1998).
    """
    return float(betaincinv(hits, images - hits + 1, error)) if hits > 0 else 0.0


def harmonic(both: int, either: int) -> Interval:
    """Of F1 by Wilson's indirect method (Lam, Gopal and Qian 2023, arXiv 2309.14621).

    `both` is how many images are and are called so, `either` how many are or are called so; F1 is 2j / (1 + j) of their
    ratio j, which is a proportion.
    """
    low, high = (2 * end / (1 + end) for end in wilson(both, either))
    return low, high


def area(value: float, fakes: int, reals: int) -> Interval:
    """Of an area under the ROC curve, by Newcombe's method 5 (2006, Statistics in Medicine 25: 559).

    A score interval with the variance of Hanley and McNeil (1982) for classes of one size: the areas from which the
    value is 1.96 standard errors away.
    """
    star, z = (fakes + reals) / 2 - 1, norm.ppf((1 + CONFIDENCE) / 2)

    def beyond(truth: float) -> float:
        spread = 1 + star * (1 - truth) / (2 - truth) + star * truth / (1 + truth)
        return float((truth - value) ** 2 - z**2 * truth * (1 - truth) * spread / (fakes * reals))

    low = brentq(beyond, 0, min(value, 1 - NEARLY_NONE)) if value > 0 else 0.0
    high = brentq(beyond, max(value, NEARLY_NONE), 1) if value < 1 else 1.0
    return float(low), float(high)


def mean(values: Numbers, times: Numbers) -> float:
    """The mean where image i counts `times[i]` times; nan where none counts."""
    total = times.sum()
    return float(values @ times / total) if total else float("nan")
