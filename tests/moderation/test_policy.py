"""Policy: the exact boundaries, and when words are asked for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.policy import Outcome, Thresholds, judge, wants_explanation
from moderation.vocabulary import ExplainMode, Label, ReviewReason

FAKE, REAL = Outcome(label=Label.FAKE), Outcome(label=Label.REAL)
UNCERTAIN, UNPARSABLE = Outcome(review=ReviewReason.UNCERTAIN), Outcome(review=ReviewReason.UNPARSABLE)
RULES = Thresholds(fake_from=0.85, real_up_to=0.15, min_pair_mass=0.5)


@pytest.mark.parametrize(
    ("p_fake", "outcome"),
    [
        *((1.0, FAKE), (0.85, FAKE), (math.nextafter(0.85, 0), UNCERTAIN)),
        *((0.5, UNCERTAIN), (math.nextafter(0.15, 1), UNCERTAIN), (0.15, REAL), (0.0, REAL)),
    ],
)
def test_thresholds_belong_to_the_decision(p_fake: float, outcome: Outcome) -> None:
    assert judge(p_fake, 1.0, RULES) == outcome


@pytest.mark.parametrize(
    ("pair_mass", "outcome"), [(0.5, FAKE), (math.nextafter(0.5, 0), UNPARSABLE), (0.0, UNPARSABLE)]
)
def test_below_the_least_pair_mass_no_score_counts(pair_mass: float, outcome: Outcome) -> None:
    assert judge(1.0, pair_mass, RULES) == outcome


def test_narrowest_band_still_has_a_place_for_doubt() -> None:
    rules = Thresholds(fake_from=0.5, real_up_to=math.nextafter(0.5, 0), min_pair_mass=0)
    assert judge(0.5, 0, rules) == FAKE
    assert judge(rules.real_up_to, 0, rules) == REAL


@given(st.floats(0, 1), st.floats(0, 1))
def test_every_score_has_exactly_one_outcome(p_fake: float, pair_mass: float) -> None:
    outcome = judge(p_fake, pair_mass, RULES)
    assert (outcome.label is None) != (outcome.review is None)


def test_what_is_no_number_is_no_answer() -> None:
    assert judge(math.nan, 0.99, RULES) == UNPARSABLE
    assert judge(0.99, math.nan, RULES) == UNPARSABLE


WANTED = {
    ExplainMode.ALWAYS: {FAKE, REAL, UNCERTAIN, UNPARSABLE},
    ExplainMode.FLAGGED: {FAKE, UNCERTAIN, UNPARSABLE},
    ExplainMode.REVIEW: {UNCERTAIN, UNPARSABLE},
}


@pytest.mark.parametrize("mode", list(ExplainMode))
@pytest.mark.parametrize("outcome", [FAKE, REAL, UNCERTAIN, UNPARSABLE])
def test_words_are_asked_for_where_the_mode_says(mode: ExplainMode, outcome: Outcome) -> None:
    assert wants_explanation(outcome, mode) is (outcome in WANTED[mode])
