"""Curves against what they were drawn from; and what is refused, or left to a stiffer curve, for want of images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit, logit

from model import calibration
from model.calibration import CannotCalibrate, Scores, apply, choose, fit, hold_reals
from model.evaluate import metrics
from model.manifest import Calibration


def drawn(images: int, curve: object = None, seed: int = 0, spread: float = 3.0) -> Scores:
    """Logits, and labels drawn with the chance that `curve` (of a logit) gives; by itself that is sigmoid."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, spread, images)
    chance = curve(raw) if callable(curve) else expit(raw)
    return Scores(raw, rng.random(images) < chance)


def log_loss(found: Calibration, scores: Scores) -> float:
    chance = np.clip(apply(found, scores.logit), 1e-9, 1 - 1e-9)
    return float(-np.log(np.where(scores.fake, chance, 1 - chance)).mean())


def test_platt_recovers_a_known_scale_and_bias() -> None:
    found = fit(drawn(20_000, lambda raw: expit(0.5 * raw + 1)), "platt", "made up")
    assert (found.scale, found.bias) == (pytest.approx(0.5, abs=0.03), pytest.approx(1, abs=0.08))
    assert (found.method, found.fitted_on) == ("platt", "made up")


def test_a_temperature_recovers_a_known_scale_and_has_no_bias() -> None:
    found = fit(drawn(20_000, lambda raw: expit(0.25 * raw)), "temperature")
    assert (found.method, found.bias) == ("temperature", 0.0)
    assert found.scale == pytest.approx(0.25, abs=0.02)


def test_weights_stand_for_images_that_were_not_sampled() -> None:
    """Of the fakes every fourth was kept, each for four: the same curve as of all, and not that of the sample."""
    everything = drawn(40_000, lambda raw: expit(0.7 * raw - 1))
    kept = ~everything.fake | (np.arange(40_000) % 4 == 0)
    sampled = everything.where(kept)
    weighted = Scores(sampled.logit, sampled.fake, np.where(sampled.fake, 4.0, 1.0))
    assert fit(weighted, "platt").bias == pytest.approx(fit(everything, "platt").bias, abs=0.06)
    assert fit(sampled, "platt").bias < fit(everything, "platt").bias - 1


def test_isotonic_follows_a_curve_that_no_scale_does() -> None:
    def steps(raw: np.ndarray) -> np.ndarray:
        return np.where(raw < -2, 0.02, np.where(raw < 3, 0.55, 0.93))

    scores, others = drawn(4000, steps), drawn(4000, steps, seed=1)
    found = fit(scores, "isotonic")
    assert log_loss(found, others) < log_loss(fit(scores, "platt"), others) - 0.02
    assert found.knots[0][1] > 0 and found.knots[-1][1] < 1


def test_isotonic_survives_a_manifest_and_rises() -> None:
    found = fit(drawn(2000), "isotonic", "made up")
    again = Calibration.model_validate(json.loads(found.model_dump_json()))
    assert again == found
    chances = apply(again, np.linspace(-20, 20, 400))
    assert (np.diff(chances) >= 0).all() and chances[0] < 0.1 and chances[-1] > 0.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "isotonic"},
        {"method": "platt", "knots": [(0.0, 0.5)]},
        {"method": "isotonic", "knots": [(1.0, 0.5), (0.0, 0.6)]},
        {"method": "isotonic", "knots": [(0.0, 0.6), (1.0, 0.5)]},
        {"method": "isotonic", "knots": [(0.0, 0.6), (1.0, 1.5)]},
    ],
)
def test_a_manifest_with_no_rising_curve_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="knots"):
        Calibration.model_validate(wrong)


def test_of_curves_that_do_as_well_the_stiffest_is_kept() -> None:
    assert choose(drawn(3000), "x").calibration.method == "none"
    assert choose(drawn(3000, lambda raw: expit(0.3 * raw)), "x").calibration.method == "temperature"
    assert choose(drawn(3000, lambda raw: expit(0.3 * raw - 1)), "x").calibration.method == "platt"


def test_isotonic_is_kept_where_it_is_needed_and_there_is_enough() -> None:
    def plateau(raw: np.ndarray) -> np.ndarray:
        return np.where(np.abs(raw) < 3, 0.5, np.where(raw < 0, 0.03, 0.97))

    choice = choose(drawn(4000, plateau), "x")
    assert choice.calibration.method == "isotonic"
    assert [each.method for each in choice.candidates] == ["none", "temperature", "platt", "isotonic"]
    few = choose(drawn(600, plateau), "x")
    assert few.calibration.method != "isotonic"
    assert "isotonic not tried: isotonic needs 1000 images" in few.reason


def test_choosing_lowers_the_error_on_other_images() -> None:
    curve = lambda raw: expit(0.3 * raw - 1)  # noqa: E731
    choice, others = choose(drawn(2000, curve), "x"), drawn(5000, curve, seed=1)
    before, after = (
        metrics.weighted_calibration_error(others.fake, apply(each, others.logit))(np.ones(5000))
        for each in (Calibration(), choice.calibration)
    )
    assert before > 0.2 and after < 0.04


def test_classes_that_do_not_overlap_give_a_finite_scale() -> None:
    raw = np.concatenate([np.linspace(-9, -3, 40), np.linspace(3, 9, 40)])
    for method in ("temperature", "platt"):
        found = fit(Scores(raw, raw > 0), method)
        assert 0.3 < found.scale < 5
        assert apply(found, raw).max() < 1 - 1e-9


@pytest.mark.parametrize("fakes", [0, 9])
def test_too_few_of_a_class_are_refused_with_the_number_needed(fakes: int) -> None:
    raw = np.linspace(-3, 3, 200)
    with pytest.raises(CannotCalibrate, match=f"at least 10 images of each class, and here are {fakes} fake"):
        choose(Scores(raw, np.arange(200) >= 200 - fakes), "x")


def test_with_few_images_only_a_temperature_is_tried_and_the_reason_says_so() -> None:
    scores = drawn(34, seed=3)
    choice = choose(scores, "x")
    assert {each.method for each in choice.candidates} == {"none", "temperature"}
    assert "platt and isotonic not tried: platt needs 40 images" in choice.reason


def test_heavy_weights_are_worth_fewer_images() -> None:
    scores = drawn(200)
    heavy = Scores(scores.logit, scores.fake, np.where(np.arange(200) < 3, 1000.0, 1.0))
    assert heavy.effective() < 4
    with pytest.raises(CannotCalibrate, match="weighted images count for less"):
        choose(heavy, "x")


def test_a_score_that_falls_with_being_fake_is_refused() -> None:
    scores = drawn(400)
    with pytest.raises(CannotCalibrate, match=r"does not mean fake here \(AUC 0\.0"):
        choose(Scores(-scores.logit, scores.fake), "x")


def test_groups_are_never_on_both_sides_of_a_fold() -> None:
    scores = drawn(300)
    grouped = Scores(scores.logit, scores.fake, groups=np.array([f"g{each % 40}" for each in range(300)]))
    folds = calibration._folds(grouped)
    assert all(len(set(folds[grouped.groups == name])) == 1 for name in set(grouped.groups))
    assert len(set(folds)) == 5


def test_a_class_that_is_one_group_cannot_be_held_out() -> None:
    scores = drawn(100)
    alike = np.where(scores.fake, "one", np.arange(100).astype(str))
    with pytest.raises(CannotCalibrate, match="alike"):
        choose(Scores(scores.logit, scores.fake, groups=alike), "x")


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_reals_are_held_by_moving_the_boundary(method: str) -> None:
    scores = drawn(3000, lambda raw: expit(raw + 1), spread=2)
    before = fit(scores, method, "x")
    reals = scores.logit[~scores.fake]
    share = float((apply(before, reals) < 0.5).mean())
    held = hold_reals(before, scores, share + 0.1)
    assert (apply(held, reals) < 0.5).mean() == pytest.approx(share + 0.1, abs=0.002)
    assert "of its reals stay real" in str(held.fitted_on)
    assert hold_reals(before, scores, share) == before


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(CannotCalibrate, match="numbers"):
        Scores(np.array([0.0, np.nan]), np.array([True, False]))


def test_a_curve_is_what_the_detector_applies() -> None:
    half = Calibration(method="isotonic", knots=((-1.0, 0.25), (1.0, 0.75)))
    assert apply(half, np.array([-5.0, -1.0, 0.0, 0.5, 9.0])) == pytest.approx([0.25, 0.25, 0.5, 0.625, 0.75])
    assert apply(Calibration(method="platt", scale=2.0, bias=1.0), np.array([0.3])) == pytest.approx(expit(1.6))
    assert logit(apply(Calibration(), np.array([0.3]))) == pytest.approx(0.3)
