"""95 % intervals, the only place they are made: Wilson's for a proportion, a bootstrap for everything else.

Images that are alike (one video's frames, one photo's crops) are one observation, not many: where groups are known,
groups are drawn, each with all its images. Every draw comes from one fixed seed, so that a result can be had again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

RESAMPLES = 1000
SEED = 0
CONFIDENCE = 0.95

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Groups = NDArray[np.str_] | NDArray[np.int64]
Interval = tuple[float, float]

# A measure, of how often each image counts: all ones give its value, a draw's counts give it resampled.
Statistic = Callable[[Numbers], float]


def bootstrap(statistic: Statistic, groups: Groups, resamples: int = RESAMPLES) -> Interval:
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
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def wilson(hits: int, images: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), which stays within 0 to 1 and holds for few images."""
    found = binomtest(hits, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def proportion(hits: Flags, groups: Groups | None) -> Interval:
    """Wilson's interval, and where groups are known the bootstrap's too, whichever end is further.

    A bootstrap alone would call 20 right of 20 certain; Wilson alone would count alike images as many.
    """
    low, high = wilson(int(hits.sum()), len(hits))
    if groups is None:
        return low, high
    drawn = bootstrap(lambda times: mean(hits.astype(np.float64), times), groups)
    return min(low, drawn[0]), max(high, drawn[1])


def mean(values: Numbers, times: Numbers) -> float:
    """The mean where image i counts `times[i]` times; nan where none counts."""
    total = times.sum()
    return float(values @ times / total) if total else float("nan")
