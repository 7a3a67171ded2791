"""Who is trained on and who is measured on: by group, for ever, and the same whenever it is asked.

A group that an image of the holdout is in goes to the holdout, and one that an image trained on is in is trained on,
however it grows: so nothing a model has learned ever moves into the holdout. A group that has come to have both (a new
image near one of each) is on neither side. Of groups that are new, a share, drawn by a hash of the group's name, goes
to the holdout. It knows names and shares, nothing of images.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set

from moderation.vocabulary import Split

# Any constant: another one would draw other groups.
SALT = "telltale holdout 1"


def assigned(groups: Iterable[str], earlier: Iterable[tuple[str, Split]], share: float) -> dict[str, Split]:
    """Each group's side. `earlier`: a group, and on which side an image of it has been; `share` from 0 to 1."""
    known: Mapping[str, set[Split]] = defaultdict(set)
    for group, split in earlier:
        known[group].add(split)
    return {group: _side(group, known[group] - {Split.LEFT_OUT}, share) for group in groups}


def _side(group: str, known: Set[Split], share: float) -> Split:
    if len(known) > 1:
        return Split.LEFT_OUT
    if known:
        return next(iter(known))
    return Split.HOLDOUT if drawn(group) < share else Split.TRAIN


def drawn(group: str) -> float:
    """A group's number from 0 to 1, the same on every machine and on every night."""
    return int.from_bytes(hashlib.sha256(f"{SALT}:{group}".encode()).digest()[:8], "big") / 2**64
