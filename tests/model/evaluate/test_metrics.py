"""Measures against numbers worked out by hand, and against scikit-learn; intervals against known ones."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from model.evaluate import intervals, metrics
from model.evaluate.metrics import Outcomes


def outcomes(
    p_fake: list[float], fake: list[bool], predicted: list[str] | None = None, groups: list[str] | None = None
) -> Outcomes:
    p = np.array(p_fake)
    said = np.where(p >= 0.5, "fake", "real") if predicted is None else np.array(predicted)
    named = None if groups is None else np.array(groups)
    return Outcomes(np.array(fake), said, p, np.log(p / (1 - p)), np.full(len(p), 0.9), named)


# Three reals, of which two are called real; four fakes, of which two are called fake and one is unparsable.
MIXED = outcomes(
    [0.1, 0.2, 0.7, 0.9, 0.8, 0.3, 0.6],
    [False, False, False, True, True, True, True],
    ["real", "real", "fake", "fake", "fake", "real", "unparsable"],
)


def test_rates_by_hand() -> None:
    expected = {
        "accuracy": pytest.approx(4 / 7),
        "balanced_accuracy": pytest.approx((2 / 3 + 2 / 4) / 2),
        "precision_real": pytest.approx(2 / 3),
        "recall_real": pytest.approx(2 / 3),
        "f1_real": pytest.approx(2 / 3),
        "precision_fake": pytest.approx(2 / 3),
        "recall_fake": pytest.approx(2 / 4),
        "f1_fake": pytest.approx(2 * (2 / 3 * 1 / 2) / (2 / 3 + 1 / 2)),
    }
    assert {name: estimate.value for name, estimate in metrics.measure(MIXED, list(expected)).items()} == expected


def test_confusion_by_hand() -> None:
    assert metrics.confusion(MIXED) == {
        "real": {"real": 2, "fake": 1, "unparsable": 0},
        "fake": {"real": 1, "fake": 2, "unparsable": 1},
    }


def test_every_measure_agrees_with_scikit_learn_however_often_images_count() -> None:
    """The bootstrap's own formulas, held against the library on 10 random sets with random weights and ties."""
    rng = np.random.default_rng(5)
    for _ in range(10):
        fake = np.array([True, False, *(rng.random(30) < 0.4)])
        made = outcomes((rng.integers(1, 20, 32) / 20).tolist(), fake.tolist())
        times = rng.integers(0, 3, 32).astype(np.float64)
        times[:2] = 1
        weighted = {"sample_weight": times}
        truth, said = made.truth, made.predicted
        assert metrics.weighted_area(fake, made.logit)(times) == pytest.approx(
            roc_auc_score(fake, made.logit, **weighted)
        )
        balanced = metrics.weighted_balance(made)(times)
        assert balanced == pytest.approx(balanced_accuracy_score(truth, said, **weighted))
        f1 = metrics.weighted_f1(truth == "fake", said == "fake")(times)
        assert f1 == pytest.approx(f1_score(truth, said, pos_label="fake", **weighted))
        found = metrics.measure(made)
        assert found["accuracy"].value == pytest.approx(accuracy_score(truth, said))
        assert found["precision_fake"].value == pytest.approx(precision_score(truth, said, pos_label="fake"))
        assert found["recall_real"].value == pytest.approx(recall_score(truth, said, pos_label="real"))
        for estimate in found.values():
            assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9


def test_auc_counts_pairs_and_ties() -> None:
    """Of four pairs the fake is above in three and level in one."""
    assert metrics.area(outcomes([0.9, 0.4, 0.4, 0.1], [True, True, False, False])).value == pytest.approx(0.875)


def test_calibration_error_by_hand() -> None:
    """Bin 0.2: two images, mean 0.25, none fake. Bin 0.9: two images, mean 0.95, one fake. (0.25 + 0.45) / 2."""
    found = metrics.calibration_error(outcomes([0.22, 0.28, 0.93, 0.97], [False, False, True, False]))
    assert found.value == pytest.approx(0.35)


def test_reliability_bins_by_hand() -> None:
    bins = metrics.reliability(outcomes([0.22, 0.28, 0.93, 0.999999], [False, True, True, True]))
    assert [each.fake.images for each in bins] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert (bins[2].mean_p, bins[2].fake.value) == (pytest.approx(0.25), 0.5)
    assert (bins[0].mean_p, bins[0].fake.value) == (None, None)


def test_coverage_by_hand() -> None:
    """The wider the band, the fewer images; the image at 0.55 is the one that is wrong."""
    points = metrics.coverage(outcomes([0.02, 0.3, 0.55, 0.98], [False, False, False, True]))
    at = {round(point.band, 2): (point.covered.value, point.accuracy.value) for point in points}
    assert at[0.0] == (1.0, 0.75)
    assert at[0.1] == (0.75, 1.0)
    assert at[0.25] == (0.5, 1.0)
    assert at[0.45] == (0.5, 1.0)


def test_low_pair_mass_is_a_share() -> None:
    made = outcomes([0.1, 0.9], [False, True])
    made.pair_mass[0] = 0.49
    assert metrics.measure(made)["low_pair_mass"].value == 0.5


def test_what_is_not_defined_is_none_and_not_a_number_made_up() -> None:
    found = metrics.measure(outcomes([0.1, 0.9], [True, True]))
    for name in ("auroc", "recall_real", "balanced_accuracy"):
        assert (found[name].value, found[name].low, found[name].high) == (None, None, None), name
    assert found["precision_real"].value == 0.0
    assert found["recall_fake"].value == 0.5


def test_change_is_over_the_same_images() -> None:
    before, after = np.array([True, True, False, False]), np.array([True, False, False, False])
    found = metrics.change(before, after, None)
    assert found.value == pytest.approx(-0.25)
    assert found.low is not None
    assert -0.8 < found.low < -0.25


def test_no_change_on_few_images_is_not_certain() -> None:
    """Of 31 images none changed: every draw is zero, and the formula says within 0.084 either way."""
    right = np.ones(31, dtype=np.bool_)
    found = metrics.change(right, right, None)
    assert (found.value, found.low, found.high) == (0, pytest.approx(-0.084, abs=1e-3), pytest.approx(0.084, abs=1e-3))


# --- intervals -------------------------------------------------------------------------------------------------------


def test_wilson_as_published() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert intervals.wilson(81, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert intervals.wilson(0, 20) == (pytest.approx(0, abs=1e-9), pytest.approx(0.1611, abs=5e-5))


def test_a_bootstrap_has_the_width_theory_gives() -> None:
    """The mean of 400 draws from a normal has a standard error of 1/20."""
    values = np.random.default_rng(1).normal(0, 1, 400)
    low, high = intervals.bootstrap(lambda times: intervals.mean(values, times), np.arange(400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    assert low < values.mean() < high


def test_alike_images_are_one_observation() -> None:
    """Two hundred images of two photos, one photo all right and one all wrong, are two observations."""
    right = np.array([True] * 100 + [False] * 100)
    assert metrics.share(right, np.array(["a"] * 100 + ["b"] * 100)) == metrics.Estimate(0.5, 0, 1, 200)
    alone = metrics.share(right, None)
    assert (alone.low, alone.high) == (pytest.approx(0.431, abs=0.001), pytest.approx(0.569, abs=0.001))


def test_all_right_is_not_certain() -> None:
    found = metrics.share(np.ones(20, dtype=bool), np.array([f"g{number // 2}" for number in range(20)]))
    assert found.high == pytest.approx(1.0)
    assert found.low == pytest.approx(0.839, abs=0.001)


PERFECT = outcomes([0.1] * 8 + [0.9] * 8, [False] * 8 + [True] * 8)


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1_real", "f1_fake", "auroc", "accuracy"])
def test_sixteen_right_of_sixteen_are_not_certain(name: str) -> None:
    found = metrics.measure(PERFECT, [name])[name]
    assert (found.value, found.high) == (1.0, pytest.approx(1.0))
    assert 0.6 < found.low < 0.9


def test_all_wrong_is_not_certain_either() -> None:
    wrong = outcomes([0.9] * 8 + [0.1] * 8, [False] * 8 + [True] * 8)
    for name in ("balanced_accuracy", "f1_real", "auroc"):
        found = metrics.measure(wrong, [name])[name]
        assert (found.value, found.low) == (0.0, pytest.approx(0.0, abs=1e-9)), name
        assert 0.1 < found.high < 0.6, name


def test_balanced_accuracy_s_formula_by_hand() -> None:
    """Wilson of 0 of 20 is 0 to 0.1611, of 20 of 20 0.8389 to 1: half of sums, and of roots of squares."""
    low, high = intervals.mean_of_two((20, 20), (20, 20))
    assert (low, high) == (pytest.approx(1 - 0.1611 * 2**0.5 / 2, abs=5e-5), pytest.approx(1.0))
    low, high = intervals.mean_of_two((0, 20), (20, 20))
    assert (low, high) == (pytest.approx(0.5 - 0.1611 / 2, abs=5e-5), pytest.approx(0.5 + 0.1611 / 2, abs=5e-5))


def test_f1_s_formula_by_hand() -> None:
    """Of 263 images either so or called so, 81 are both: the ratio's ends as Newcombe prints them, made F1."""
    low, high = intervals.harmonic(81, 263)
    assert low == pytest.approx(2 * 0.2553 / 1.2553, abs=1e-4)
    assert high == pytest.approx(2 * 0.3662 / 1.3662, abs=1e-4)


@pytest.mark.parametrize(("value", "fakes", "reals"), [(1.0, 4, 9), (0.0, 30, 30), (0.9, 10, 12), (0.5, 3, 200)])
def test_area_s_ends_are_as_many_standard_errors_away(value: float, fakes: int, reals: int) -> None:
    """By Hanley and McNeil's variance with Q1 and Q2, both classes as large as they are on average."""
    ends = intervals.area(value, fakes, reals)
    assert ends[0] <= value <= ends[1]
    for end in ends:
        if end not in (0.0, 1.0):
            q1, q2, mean = end / (2 - end), 2 * end**2 / (1 + end), (fakes + reals) / 2
            variance = end * (1 - end) + (mean - 1) * (q1 + q2 - 2 * end**2)
            assert abs(end - value) == pytest.approx(1.95996 * (variance / (fakes * reals)) ** 0.5, rel=1e-4)
    assert ends[1] - ends[0] > 0.05


def test_calibration_error_s_interval_holds_its_value() -> None:
    """Every bin's share of fakes is its score: noise lifts every draw above the 0 that is the value."""
    fakes = [(tenth, number < 2 * tenth + 1) for tenth in range(10) for number in range(20)]
    made = outcomes([tenth / 10 + 0.05 for tenth, _ in fakes], [fake for _, fake in fakes])
    low, _ = intervals.bootstrap(metrics.weighted_calibration_error(made.fake, made.p_fake), made.units)
    found = metrics.calibration_error(made)
    assert found.value == pytest.approx(0, abs=1e-9)
    assert low > 0.02
    assert 0 <= found.low <= found.value <= found.high
    assert intervals.basic(0.02, (0.03, 0.07)) == (0.0, 0.02)
    assert intervals.basic(0.2, (0.15, 0.3)) == (pytest.approx(0.1), pytest.approx(0.25))


def test_intervals_are_the_same_every_time() -> None:
    assert metrics.measure(MIXED) == metrics.measure(MIXED)


def test_a_paired_change_by_hand_and_no_change_on_few_images() -> None:
    """8 gained, 2 lost of 98: one is added to both, two to all: 0.06 ± 1.96 · sqrt((0.12 − 0.0036) / 100)."""
    assert intervals.paired(8, 2, 98) == pytest.approx((0.06 - 0.06687, 0.06 + 0.06687), abs=1e-4)
    low, high = intervals.paired(0, 0, 10)
    assert low < -0.2 and high > 0.2


def test_a_lower_end_by_clopper_and_pearson() -> None:
    """Of 10 hits in 10 at 5 %: the tenth root of 0.05."""
    assert intervals.proportion_at_least(10, 10, 0.05) == pytest.approx(0.05**0.1)
    assert intervals.proportion_at_least(0, 10, 0.05) == 0.0
