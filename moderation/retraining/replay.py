"""What a run shows the network, and how often: what is new, and earlier images against forgetting.

It knows labels and counts; the same seed draws the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol, TypeVar

from moderation.vocabulary import Label


class Labelled(Protocol):
    """Anything that is real or fake."""

    @property
    def label(self) -> Label:
        """What it is."""


T = TypeVar("T", bound=Labelled)


@dataclass(frozen=True)
class Plan:
    """How much of what: `share` (0 to below 1) of all that is shown is replay; each new image is shown `passes` times.

    Half of the replay is real, and half of either label is of earlier reviews, where there are any.
    """

    share: float
    passes: int
    seed: int


def drawn(new: Sequence[T], earlier: Sequence[T], base: Sequence[T], plan: Plan) -> list[T]:
    """Everything that is shown, in no order that means anything: new images each so often, and the replay.

    A pool that is used up begins again. Where a label has no earlier image at all, its half of the replay is missing.
    """
    shown = list(new) * plan.passes
    wanted = round(len(shown) * plan.share / (1 - plan.share))
    halves = {Label.REAL: wanted // 2, Label.FAKE: wanted - wanted // 2}
    random_ = random.Random(plan.seed)
    for label, count in halves.items():
        pools = [[each for each in pool if each.label is label] for pool in (earlier, base)]
        shown += _from(pools, count, random_)
    return shown


def _from(pools: Sequence[list[T]], count: int, random_: random.Random) -> Iterator[T]:
    """`count` draws, evenly from all pools that have something; each of a pool once before any twice."""
    filled = [cycle(random_.sample(pool, len(pool))) for pool in pools if pool]
    return islice((next(pool) for pool in cycle(filled)), count)
