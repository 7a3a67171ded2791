"""Which images belong together, so that no near-copy of what is trained on is measured on.

Together are: the same bytes, whoever sent them; near-duplicates by PDQ, across tenants; and what one tenant sent in one
burst. Groups are named by their smallest sha256, so that the same images make the same groups in any order. It knows
hashes and times, no pixels and no rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

# Of 256 bits; and hashes of images with less detail than this quality say little. Both are recommended by PDQ's authors
# (github.com/facebook/ThreatExchange, hashing/hashing.pdf).
NEAR_BITS = 31
MIN_QUALITY = 50
PDQ_BYTES = 32
BLOCK = 64  # hashes that are compared with all others at once; memory grows with it

Pair = tuple[int, int]


@dataclass(frozen=True)
class Sighting:
    """One image as it was sent, or, with `sent_at` None, one that an earlier run knew and this one only remembers."""

    image_id: UUID
    sha256: str
    tenant_id: UUID
    sent_at: datetime | None
    pdq: bytes | None = None
    quality: int = 0

    @property
    def comparable(self) -> bytes | None:
        """The hash, unless there is too little to see: then others that have nothing in common are near it."""
        return self.pdq if self.pdq and self.quality >= MIN_QUALITY else None


def grouped(sightings: Sequence[Sighting], alike: Iterable[tuple[UUID, UUID]], burst: timedelta) -> list[str]:
    """The group of each sighting. `alike` are pairs of images that somebody has found to be near each other."""
    parents = list(range(len(sightings)))
    for one, other in _pairs(sightings, alike, burst):
        parents[_root(parents, one)] = _root(parents, other)
    names: dict[int, str] = {}
    roots = [_root(parents, index) for index in range(len(sightings))]
    for root, sighting in zip(roots, sightings, strict=True):
        names[root] = min(names.get(root, sighting.sha256), sighting.sha256)
    return [names[root] for root in roots]


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _pairs(sightings: Sequence[Sighting], alike: Iterable[tuple[UUID, UUID]], burst: timedelta) -> Iterator[Pair]:
    yield from _same_bytes(sightings)
    places = {sighting.image_id: index for index, sighting in enumerate(sightings)}
    yield from ((places[one], places[other]) for one, other in alike if one in places and other in places)
    yield from _near(sightings)
    yield from _bursts(sightings, burst)


def _same_bytes(sightings: Sequence[Sighting]) -> Iterator[Pair]:
    of: dict[str, list[int]] = defaultdict(list)
    for index, sighting in enumerate(sightings):
        of[sighting.sha256].append(index)
    return (pair for indices in of.values() for pair in pairwise(indices))


def _near(sightings: Sequence[Sighting]) -> Iterator[Pair]:
    """Pairs of hashes at most NEAR_BITS apart: every two are compared, so the time grows with the square."""
    hashed = [(index, pdq) for index, each in enumerate(sightings) if (pdq := each.comparable)]
    if not hashed:
        return
    places = [index for index, _ in hashed]
    words: NDArray[np.uint64] = np.frombuffer(b"".join(pdq for _, pdq in hashed), np.uint64).reshape(len(hashed), -1)
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK, None] ^ words[None, start:]
        rows, columns = np.nonzero(np.bitwise_count(block).sum(axis=2, dtype=np.uint16) <= NEAR_BITS)
        yield from ((places[start + row], places[start + column]) for row, column in zip(rows, columns, strict=True))


def _bursts(sightings: Sequence[Sighting], burst: timedelta) -> Iterator[Pair]:
    """What a tenant sent within `burst` of the first of it.

    Of the first and not of the one before: on a tenant that sends all the time, everything would hang together, and
    nothing be left to measure on.
    """
    if not burst:
        return
    of: dict[UUID, list[tuple[datetime, int]]] = defaultdict(list)
    for index, sighting in enumerate(sightings):
        if sighting.sent_at is not None:
            of[sighting.tenant_id].append((sighting.sent_at, index))
    for sent in of.values():
        first, leader = None, -1
        for at, index in sorted(sent):
            if first is None or at - first > burst:
                first, leader = at, index
            else:
                yield leader, index
