"""What samples of answers say of all decisions: shares and agreement with their intervals. Pure functions over counts.

All intervals are 95 %. Below FEWEST observations nothing is said but how many there are: an interval that wide invites
reading its middle. It knows nothing of cases.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

Z = NormalDist().inv_cdf(0.975)
# A stability index of a tenth is commonly taken for a shift that is worth a look.
NOTABLE = 0.1
# Of independent observations; weighted ones count as fewer (`Share.effective`).
FEWEST = 20


@dataclass(frozen=True)
class Observation:
    """`count` answers that say the same. `weight`: how many decisions each stands for, 1 / sampling probability."""

    hit: bool
    weight: float = 1.0
    count: int = 1


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """A share, 0 to 1, from `n` observations that say as much as `effective` unweighted ones; None where too few."""

    n: int
    effective: float
    found: Interval | None


@dataclass(frozen=True)
class Agreement:
    """How far two people agree: `share` of equal answers, and `kappa`, which is 0 where chance alone would do it.

    `kappa` is None where there are too few pairs, or where everybody gave one and the same answer: then chance would
    agree always, and it is not defined.
    """

    n: int
    share: Share
    kappa: Interval | None


def share(observations: Iterable[Observation]) -> Share:
    """The share of hits among all that the observations stand for.

    Estimator: the ratio of weighted sums (Hájek 1971), each answer weighted with 1 / its sampling probability.
    Interval: Wilson's (1927) score interval with the effective sample size of Kish (1965), (Σw)² / Σw², as Korn and
    Graubard (1998) propose for weighted samples; with equal weights it is Wilson's own.
    """
    seen = [one for one in observations if one.count]
    n = sum(one.count for one in seen)
    total = sum(one.weight * one.count for one in seen)
    squares = sum(one.weight**2 * one.count for one in seen)
    effective = total**2 / squares if squares else 0.0
    if round(effective, 6) < FEWEST:
        return Share(n, effective, None)
    value = sum(one.weight * one.count for one in seen if one.hit) / total
    return Share(n, effective, wilson(value, effective))


def wilson(value: float, n: float) -> Interval:
    """A share's score interval (Wilson 1927), from `n` > 0 observations, which need not be whole."""
    spread = 1 + Z**2 / n
    middle = (value + Z**2 / (2 * n)) / spread
    half = Z / spread * math.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2))
    return Interval(value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


def agreement(pairs: Mapping[tuple[str, str], int]) -> Agreement:
    """How far first and second opinions agree, from how often each pair of answers was given.

    Cohen's (1960) kappa; its interval from the large-sample variance of Fleiss, Cohen and Everitt (1969).
    """
    n = sum(pairs.values())
    equal = share([Observation(first == second, count=count) for (first, second), count in pairs.items()])
    return Agreement(n, equal, _kappa(pairs, n) if n >= FEWEST else None)


def _kappa(pairs: Mapping[tuple[str, str], int], n: int) -> Interval | None:
    p = {pair: count / n for pair, count in pairs.items()}
    words = sorted({word for pair in pairs for word in pair})
    first = {word: sum(p.get((word, other), 0.0) for other in words) for word in words}
    second = {word: sum(p.get((other, word), 0.0) for other in words) for word in words}
    observed = sum(p.get((word, word), 0.0) for word in words)
    chance = sum(first[word] * second[word] for word in words)
    if math.isclose(chance, 1):
        return None
    value = (observed - chance) / (1 - chance)
    miss = 1 - value
    same = sum(p.get((word, word), 0.0) * (1 - (first[word] + second[word]) * miss) ** 2 for word in words)
    other = miss**2 * sum(q * (second[a] + first[b]) ** 2 for (a, b), q in p.items() if a != b)
    variance = (same + other - (value - chance * miss) ** 2) / ((1 - chance) ** 2 * n)
    half = Z * math.sqrt(max(0.0, variance))
    return Interval(value, max(-1.0, value - half), min(1.0, value + half))


def stability(then: Mapping[Any, int], now: Mapping[Any, int], classes: Collection[Hashable]) -> float | None:
    """The population stability index of two samples that are counted by class: 0 where their mixes are the same.

    Σ (q - p) ln(q / p) over the classes' shares; half an observation more in each class keeps an empty one from making
    it infinite. Of two samples of one mix it is about (1/n + 1/m) times a chi-square with as many degrees of freedom as
    there are classes, less one (Yurdakul 2018, Statistical properties of population stability index). None where by
    chance alone NOTABLE is to be expected: then there is too little of either.
    """
    n, m = (sum(counts.get(each, 0) for each in classes) for counts in (then, now))
    if not n or not m or (len(classes) - 1) * (1 / n + 1 / m) > NOTABLE:
        return None
    p, q = ({each: counts.get(each, 0) + 0.5 for each in classes} for counts in (then, now))
    all_p, all_q = sum(p.values()), sum(q.values())
    shares = [(p[each] / all_p, q[each] / all_q) for each in classes]
    return sum((after - before) * math.log(after / before) for before, after in shares)
