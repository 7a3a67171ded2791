"""Whether an image that was trained on is in the holdout: by id, by bytes, by group, or as a near-copy.

A near-copy is found by PDQ, a perceptual hash of 256 bits (Facebook 2019), which whoever has the images computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK = 512  # holdout images compared at once with all that were trained on


@dataclass(frozen=True)
class Fingerprint:
    """What an image is known by. `pdq` is 64 hexadecimal digits, None where it could not be hashed (no detail)."""

    id: str
    sha256: str
    group: str | None = None
    pdq: str | None = None


@dataclass(frozen=True)
class Leak:
    """An image of the holdout, the one that was trained on, and what they have in common."""

    holdout: str
    trained: str
    by: str


def leaks(trained: Sequence[Fingerprint], holdout: Sequence[Fingerprint], near_copy_bits: int) -> list[Leak]:
    """One for each image of the holdout that was trained on in any form, by the plainest thing in common."""
    found = {leak.holdout: leak for leak in _near_copies(trained, holdout, near_copy_bits)}
    for name, key in (("group", _group), ("sha256", _sha256), ("id", _id)):
        there = {key(each): each.id for each in trained if key(each) is not None}
        found |= {each.id: Leak(each.id, there[key(each)], name) for each in holdout if key(each) in there}
    return [found[each.id] for each in holdout if each.id in found]


def _id(image: Fingerprint) -> str | None:
    return image.id


def _sha256(image: Fingerprint) -> str | None:
    return image.sha256


def _group(image: Fingerprint) -> str | None:
    return image.group


def _near_copies(trained: Sequence[Fingerprint], holdout: Sequence[Fingerprint], bits: int) -> Iterable[Leak]:
    ours, theirs = ([each for each in images if each.pdq] for images in (holdout, trained))
    if not ours or not theirs:
        return
    against = _words(theirs)
    for start in range(0, len(ours), CHUNK):
        some = ours[start : start + CHUNK]
        distance = np.zeros((len(some), len(theirs)), dtype=np.int64)
        for own, other in zip(_words(some).T, against.T, strict=True):
            distance += np.bitwise_count(own[:, None] ^ other[None, :])
        nearest = distance.argmin(1)
        for row, image in enumerate(some):
            if (apart := int(distance[row, nearest[row]])) <= bits:
                yield Leak(image.id, theirs[int(nearest[row])].id, f"PDQ, {apart} bits apart")


def _words(images: Sequence[Fingerprint]) -> NDArray[np.uint64]:
    """Each hash as four words."""
    return np.array([np.frombuffer(bytes.fromhex(each.pdq or ""), dtype=">u8") for each in images]).astype(np.uint64)
