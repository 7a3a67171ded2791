"""Proposed thresholds hold their promise when images are drawn again and again; and what is said when they cannot."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from model.evaluate.intervals import Numbers
from model.thresholds import Judged, least, propose

TARGET = 0.95
DRAWS = 200


def drawn(rng: np.random.Generator, images: int) -> Judged:
    """Calibrated scores, most of them near 0 or 1, and labels drawn by them."""
    p = rng.beta(0.5, 0.5, images)
    return Judged(p, rng.random(images) < p)


@cache
def precisions() -> dict[float, float]:
    """The truth: for each threshold the mean p_fake of the scores from it on."""
    p = np.sort(np.random.default_rng(99).beta(0.5, 0.5, 1_000_000))
    means = p[::-1].cumsum()[::-1] / np.arange(len(p), 0, -1)
    return {step / 200: float(means[np.searchsorted(p, step / 200)]) for step in range(100, 200)}


def misses(draw: Callable[[np.random.Generator], Judged], seed: int) -> tuple[float, float]:
    """Over many draws: how often either precision is below the target, and how often a threshold was proposed."""
    rng, missed, proposed = np.random.default_rng(seed), 0, 0
    truth = precisions()
    for _ in range(DRAWS):
        found = propose(draw(rng), TARGET)
        sides = [found.fake_from, None if found.real_up_to is None else round(1 - found.real_up_to, 3)]
        proposed += any(sides)
        missed += any(side is not None and truth[side] < TARGET for side in sides)
    return missed / DRAWS, proposed / DRAWS


def test_the_promise_holds() -> None:
    """2000 images; both precisions at least 0.95, with confidence 0.95 for both together."""
    missed, proposed = misses(lambda rng: drawn(rng, 2000), seed=1)
    assert missed <= 0.05
    assert proposed >= 0.9


def test_the_promise_holds_for_images_that_were_sampled() -> None:
    """Unsure images are reviewed always, sure ones every fourth time, and count four times."""

    def draw(rng: np.random.Generator) -> Judged:
        everything = drawn(rng, 4000)
        sure = np.abs(everything.p_fake - 0.5) > 0.4
        kept = ~sure | (rng.random(4000) < 0.25)
        weight = np.where(sure, 4.0, 1.0)[kept]
        return Judged(everything.p_fake[kept], everything.fake[kept], weight)

    missed, proposed = misses(draw, seed=2)
    assert missed <= 0.05
    assert proposed >= 0.6


def test_the_promise_holds_for_alike_images() -> None:
    """Every image three times over: as many as 2400, worth 800."""

    def draw(rng: np.random.Generator) -> Judged:
        once = drawn(rng, 800)
        return Judged(np.tile(once.p_fake, 3), np.tile(once.fake, 3), groups=np.tile(np.arange(800), 3))

    missed, _ = misses(draw, seed=3)
    assert missed <= 0.05


def test_without_groups_alike_images_would_break_it() -> None:
    """That groups are what keeps the promise, not slack in the bound."""

    def draw(rng: np.random.Generator) -> Judged:
        once = drawn(rng, 200)
        return Judged(np.tile(once.p_fake, 6), np.tile(once.fake, 6))

    missed, _ = misses(draw, seed=3)
    assert missed > 0.1


def perfect(images: int, **others: Numbers) -> Judged:
    fake = np.arange(images) % 2 == 0
    return Judged(np.where(fake, 0.999, 0.001), fake, **others)


def test_as_many_images_as_the_bound_needs_and_not_one_fewer() -> None:
    """Without a mistake 86 images of a side show 95 % with a chance of 1.25 % to be wrong: 0.95^86 = 0.0121."""
    assert least(0.95, 0.0125) == 86
    enough, short = propose(perfect(172)), propose(perfect(170))
    assert (enough.fake_from, enough.real_up_to) == (0.5, 0.5)
    assert (short.fake_from, short.real_up_to) == (None, None)
    assert short.fake.more_reviews == pytest.approx(2, abs=2)
    assert "Too few images to tell" in short.fake.reason


def test_a_score_that_is_not_good_enough_is_said_to_need_more_than_reviews() -> None:
    rng = np.random.default_rng(0)
    found = propose(Judged(rng.random(5000), rng.random(5000) < 0.5))
    assert (found.fake_from, found.real_up_to, found.decided) == (None, None, 0.0)
    assert found.fake.more_reviews is None
    assert "the score must become better" in found.fake.reason


def test_no_image_of_a_side_is_no_promise() -> None:
    found = propose(Judged(np.full(500, 0.2), np.zeros(500, dtype=bool)))
    assert found.fake_from is None
    assert found.real_up_to is not None and found.real_up_to >= 0.2


def test_numbers_by_hand() -> None:
    """300 sure fakes, 3 of them real: 0.99, and the exact lower end at 1.25 %."""
    fake = np.concatenate([np.arange(300) >= 3, np.zeros(300, dtype=bool)])
    p = np.concatenate([np.full(300, 0.97), np.full(300, 0.03)])
    found = propose(Judged(p, fake))
    assert found.fake.bound is not None
    assert (found.fake.bound.precision, found.fake.bound.images) == (pytest.approx(0.99), 300)
    assert binom.sf(296, 300, found.fake.bound.at_least) == pytest.approx(0.0125)
    assert found.decided == 1.0


def test_heavily_weighted_images_show_less() -> None:
    weight = np.where(np.arange(400) < 4, 100.0, 1.0)
    assert propose(perfect(400)).fake_from == 0.5
    assert propose(perfect(400, weight=weight)).fake_from is None


@pytest.mark.parametrize(("target", "confidence"), [(0.3, 0.95), (1.0, 0.95), (0.95, 1.0)])
def test_a_target_that_is_none_is_refused(target: float, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"such as 0\.95"):
        propose(perfect(100), target, confidence)
