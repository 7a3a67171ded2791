"""The order rows are trained in: shuffled, but with rows of like length in one update, so that little is padding.

Rows are shuffled, cut into pools of a few updates, sorted by length inside each pool, cut into updates, and the updates
shuffled again: sorting a whole epoch would also sort it by class, because real and fake answers differ in length. Some
of that remains inside a pool, and a short training suffers from it: answers of one kind come to fill whole updates. So
rows are only shuffled where little would be padding anyhow.
It depends on seed and epoch alone, so that a resumed run, and every process of one, sees the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Updates per pool: more of them means less padding and more likeness inside an update.
POOL = 8
# Of all tokens: less padding than this is cheaper than updates of one kind.
LITTLE = 0.1


class LengthGrouped(Sampler[int]):
    """Row numbers of one epoch. `lengths` are the whole rows', in tokens; `update` is how many make one update."""

    def __init__(self, lengths: Sequence[int], update: int, seed: int) -> None:
        self._lengths, self._update, self._seed = lengths, update, seed
        self.epoch = 0
        self._pool = (POOL if self._padding() > LITTLE else 1) * update

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = self._generator()
        rows = torch.randperm(len(self._lengths), generator=generator).tolist()
        pools = [self._sorted(rows[at : at + self._pool]) for at in range(0, len(rows), self._pool)]
        updates = [pool[at : at + self._update] for pool in pools for at in range(0, len(pool), self._update)]
        # What is left over is the smallest update and must stay the last, or all after it would be cut anew.
        rest = updates.pop() if len(updates[-1]) < self._update else []
        for number in torch.randperm(len(updates), generator=generator).tolist():
            yield from updates[number]
        yield from rest

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 1_000_003 + self.epoch)

    def _padding(self) -> float:
        """The share of padding in updates of rows that are only shuffled."""
        order = torch.randperm(len(self._lengths), generator=self._generator()).tolist()
        shuffled = [self._lengths[row] for row in order]
        updates = [shuffled[at : at + self._update] for at in range(0, len(shuffled), self._update)]
        padded = sum(max(update) * len(update) for update in updates)
        return 1 - sum(self._lengths) / padded if padded else 0.0

    def _sorted(self, pool: list[int]) -> list[int]:
        return sorted(pool, key=lambda row: self._lengths[row], reverse=True)
