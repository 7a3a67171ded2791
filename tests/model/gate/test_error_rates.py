"""How often the gate errs: images are drawn again and again from versions whose quality is known."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest

from model.evaluate.intervals import bootstrap
from model.gate import comparison
from model.gate.judgement import judge
from model.gate.margins import Margins
from model.gate.rules import new_is_better
from tests.model.gate.drawn import drawn, evidence

NEW, OLD = 150, 600


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interval's ends waver a little more, and over many draws that is even."""
    monkeypatch.setattr(comparison, "bootstrap", partial(bootstrap, resamples=200))


def called_better(draws: int, seed: int, accuracies: tuple[float, float], off: float = 0.0) -> float:
    """How often both measures of what is new are met; a promotion needs that and all other rules."""
    met = 0
    for number in range(draws):
        rng = np.random.default_rng((seed, number))
        found = evidence(drawn(rng, "new", NEW, accuracies, off=off), drawn(rng, "old", 20, (0.9, 0.9)))
        met += all(each.answer == "pass" for each in new_is_better(found, Margins()))
    return met / draws


def test_a_challenger_that_is_no_better_is_hardly_ever_promoted() -> None:
    assert called_better(120, 1, (0.75, 0.75)) <= 0.05


def test_nor_is_one_whose_threshold_alone_is_better() -> None:
    """The champion's boundary is off, so its decisions are worse, and its scores are as good."""
    assert called_better(80, 3, (0.75, 0.75), off=1.0) <= 0.05


def test_one_that_is_ten_points_better_is_mostly_promoted_and_otherwise_asked_about() -> None:
    outcomes: Counter[str] = Counter()
    for number in range(30):
        rng = np.random.default_rng((4, number))
        outcomes[
            judge(evidence(drawn(rng, "new", NEW, (0.70, 0.80)), drawn(rng, "old", OLD, (0.92, 0.92)))).outcome
        ] += 1
    assert outcomes["promote"] >= 0.6 * 30
    assert outcomes["promote"] + outcomes["ask"] >= 0.9 * 30
