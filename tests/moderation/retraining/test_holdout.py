"""The split: no group on both sides, a share held out, the same for ever, and nothing learned is ever held out."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.retraining.holdout import assigned, drawn
from moderation.vocabulary import Split

TRAIN, HOLDOUT, LEFT_OUT = Split
NAMES = [f"{number:064x}" for number in range(5000)]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_the_share_of_new_groups_that_is_held_out(share: float) -> None:
    held = sum(side is HOLDOUT for side in assigned(NAMES, (), share).values())
    assert held / len(NAMES) == pytest.approx(share, abs=0.02)


def test_a_group_that_touches_the_holdout_stays_in_it_and_one_that_was_learned_is_never_held_out() -> None:
    held = next(name for name in NAMES if drawn(name) > 0.9)
    learned = next(name for name in NAMES if drawn(name) < 0.01)
    sides = assigned([held, learned], [(held, HOLDOUT), (learned, TRAIN)], 0.5)
    assert sides == {held: HOLDOUT, learned: TRAIN}


def test_a_group_that_has_come_to_have_both_is_on_neither_side() -> None:
    assert assigned(["a"], [("a", HOLDOUT), ("a", TRAIN)], 0.5) == {"a": LEFT_OUT}


def test_having_been_left_out_says_nothing() -> None:
    assert assigned(["a"], [("a", LEFT_OUT), ("a", HOLDOUT)], 0.5) == {"a": HOLDOUT}


NIGHTS = st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=15), min_size=1, max_size=6)


@given(NIGHTS, st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_night_after_night_no_image_ever_changes_sides(nights: list[list[tuple[int, int]]], share: float) -> None:
    """Images come, two of them near each other; groups grow and merge; sides are as earlier nights made them."""
    parents: dict[int, int] = {}
    history: dict[int, set[Split]] = defaultdict(set)

    def root(image: int) -> int:
        while parents.setdefault(image, image) != image:
            image = parents[image]
        return image

    for night in nights:
        for one, other in night:
            parents[max(root(one), root(other))] = min(root(one), root(other))
        group_of = {image: str(root(image)) for image in parents}
        earlier = [(group_of[image], side) for image, sides in history.items() for side in sides]
        sides = assigned(set(group_of.values()), earlier, share)
        for image, group in group_of.items():
            if sides[group] is not LEFT_OUT:
                history[image].add(sides[group])
    assert all(len(sides) == 1 for sides in history.values())


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
def test_a_group_is_drawn_whatever_else_there_is(some: set[str], more: set[str]) -> None:
    alone, among = assigned(some, (), 0.3), assigned(some | more, (), 0.3)
    assert alone == {name: among[name] for name in some}
