"""What is shown, and how often: new images in each pass, replay in its share, half of it real, as the seed says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from moderation.retraining.replay import Plan, drawn
from moderation.vocabulary import Label


@dataclass(frozen=True)
class Image:
    name: str
    label: Label


def images(kind: str, real: int, fake: int) -> list[Image]:
    return [Image(f"{kind} real {n}", Label.REAL) for n in range(real)] + [
        Image(f"{kind} fake {n}", Label.FAKE) for n in range(fake)
    ]


def test_each_new_image_is_shown_in_each_pass_and_replay_fills_its_share() -> None:
    new = images("new", 3, 3)
    shown = drawn(new, images("earlier", 20, 20), images("base", 20, 20), Plan(0.5, passes=4, seed=1))
    counts = Counter(each.name for each in shown)
    assert {counts[each.name] for each in new} == {4}
    replay = [each for each in shown if not each.name.startswith("new")]
    assert len(replay) == len(shown) // 2 == 24
    assert Counter((each.name.split()[0], each.label) for each in replay) == {
        ("earlier", Label.REAL): 6,
        ("base", Label.REAL): 6,
        ("earlier", Label.FAKE): 6,
        ("base", Label.FAKE): 6,
    }


def test_a_pool_is_used_up_before_anything_of_it_comes_again() -> None:
    shown = drawn(images("new", 4, 4), [], images("base", 2, 3), Plan(0.5, passes=1, seed=1))
    assert sorted(Counter(each.name for each in shown if each.name.startswith("base")).values()) == [1, 1, 2, 2, 2]


def test_where_there_is_nothing_of_a_label_to_replay_its_half_is_missing() -> None:
    shown = drawn(images("new", 1, 1), images("earlier", 5, 0), [], Plan(0.8, passes=2, seed=0))
    assert Counter(each.label for each in shown[4:]) == {Label.REAL: 8}


def test_no_replay_at_all() -> None:
    new = images("new", 2, 1)
    assert drawn(new, images("earlier", 5, 5), [], Plan(0, passes=1, seed=0)) == new


POOLS = st.builds(images, st.sampled_from(["new", "earlier", "base"]), st.integers(0, 6), st.integers(0, 6))


@given(POOLS, POOLS, POOLS, st.floats(0, 0.9), st.integers(1, 4), st.integers(0, 9))
def test_the_same_seed_draws_the_same(
    new: list[Image], earlier: list[Image], base: list[Image], share: float, passes: int, seed: int
) -> None:
    plan = Plan(share, passes, seed)
    shown = drawn(new, earlier, base, plan)
    assert shown == drawn(new, earlier, base, plan)
    assert shown[: len(new) * passes] == new * passes
    assert len(shown) <= len(new) * passes + round(len(new) * passes * share / (1 - share)) + 1


def test_another_seed_draws_others() -> None:
    pool = images("base", 50, 50)
    one, other = (drawn(images("new", 2, 2), [], pool, Plan(0.5, 4, seed)) for seed in (1, 2))
    assert one != other
