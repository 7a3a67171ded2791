"""Shares and agreement, against values from the literature, from scikit-learn, and from first principles."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from sklearn.metrics import cohen_kappa_score

from moderation import estimates
from moderation.estimates import FEWEST, Observation, agreement, share, wilson

WORDS = ("real", "fake", "cannot_tell")


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe (1998), table I, method 3: the score interval without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_as_published(hits: int, n: int, low: float, high: float) -> None:
    found = wilson(hits / n, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_interval_holds_its_value_and_stays_a_share(value: float) -> None:
    found = wilson(value, 25)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_equal_weights_are_no_weights() -> None:
    plain = share([Observation(True, count=45), Observation(False, count=5)])
    weighted = share([Observation(True, 100, 45), Observation(False, 100, 5)])
    assert plain.found == weighted.found == wilson(0.9, 50)
    assert (weighted.n, weighted.effective) == (50, pytest.approx(50))


def test_unequal_weights_count_for_what_they_stand_for_by_hand() -> None:
    # 30 sampled one in ten, all right: 300. 30 sampled one in two, 15 right: 30 of 60. So 330 of 360.
    found = share([Observation(True, 10, 30), Observation(True, 2, 15), Observation(False, 2, 15)])
    assert found.found is not None
    assert found.found.value == pytest.approx(330 / 360)
    assert found.effective == pytest.approx(360**2 / (30 * 100 + 30 * 4))
    assert found.n == 60


def test_too_few_is_no_number() -> None:
    assert share([Observation(True, count=FEWEST - 1)]).found is None
    assert share([Observation(True, count=FEWEST)]).found is not None
    assert share([]) == estimates.Share(0, 0.0, None)
    lopsided = share([Observation(True, 1000, 2), Observation(False, 1, 50)])
    assert (lopsided.n, lopsided.found) == (52, None), "two answers that stand for nearly everything are two answers"


@pytest.mark.parametrize(("rarely_looked_at", "often_looked_at"), [(0.97, 0.8), (0.9, 0.9), (0.8, 0.97)])
def test_the_interval_of_a_weighted_sample_covers_the_truth_at_least_nearly_as_often_as_it_says(
    rarely_looked_at: float, often_looked_at: float
) -> None:
    """10,000 decisions, about 800 audits of them, 600 times over; one part is right more often than the other."""
    chance = random.Random(4)
    population = [(0.05, chance.random() < rarely_looked_at) for _ in range(8000)]
    population += [(0.2, chance.random() < often_looked_at) for _ in range(2000)]
    truth = sum(right for _, right in population) / len(population)
    covered = 0
    for _ in range(600):
        found = share([Observation(right, 1 / p) for p, right in population if chance.random() < p]).found
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered / 600 >= 0.93


def pairs_of(first: list[str], second: list[str]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for pair in zip(first, second, strict=True):
        found[pair] = found.get(pair, 0) + 1
    return found


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.6, 1.0])
def test_kappa_is_scikit_learns(noise: float) -> None:
    chance = random.Random(7)
    first = [chance.choice(WORDS) for _ in range(300)]
    second = [chance.choice(WORDS) if chance.random() < noise else word for word in first]
    found = agreement(pairs_of(first, second))
    assert found.kappa is not None and found.share.found is not None
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.share.found.value == pytest.approx(sum(map(str.__eq__, first, second)) / 300)


def plain_kappa(p: dict[tuple[str, str], float]) -> float:
    observed = sum(q for (a, b), q in p.items() if a == b)
    chance = sum(
        sum(q for (a, _), q in p.items() if a == word) * sum(q for (_, b), q in p.items() if b == word)
        for word in WORDS
    )
    return (observed - chance) / (1 - chance)


def test_kappas_interval_is_the_delta_methods() -> None:
    """The published variance, against the multinomial one of a numerically derived kappa."""
    counts = dict(zip(itertools.product(WORDS, WORDS), (40, 6, 3, 9, 55, 4, 2, 5, 11), strict=True))
    n = sum(counts.values())
    p = {pair: count / n for pair, count in counts.items()}
    step = 1e-6
    slope = {pair: (plain_kappa({**p, pair: p[pair] + step}) - plain_kappa(p)) / step for pair in p}
    mean = sum(p[pair] * slope[pair] for pair in p)
    variance = (sum(p[pair] * slope[pair] ** 2 for pair in p) - mean**2) / n
    found = agreement(counts).kappa
    assert found is not None
    assert found.value == pytest.approx(plain_kappa(p))
    assert (found.high - found.low) / 2 == pytest.approx(estimates.Z * math.sqrt(variance), rel=1e-4)


def test_kappa_is_not_made_up() -> None:
    assert agreement({("real", "real"): 50}).kappa is None, "chance would agree always"
    assert agreement({("real", "real"): 10, ("fake", "fake"): 9}).kappa is None, "too few"
    assert agreement({}).n == 0
    perfect = agreement({("real", "real"): 10, ("fake", "fake"): 10}).kappa
    assert perfect is not None and (perfect.value, perfect.high) == (1.0, 1.0)
