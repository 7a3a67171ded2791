"""Objects that no row speaks of, swept after a day: images, uploads, adapters and snapshots.

Bytes go to the object store before the rows that speak of them, and rows go before their bytes, so whoever is killed in
between leaves an object and nothing else; and a form for an upload can be sent for a little longer than its row is
there. A sweep goes round the bucket a page at a time and remembers only where it is. The bucket is one deployment's:
what another keeps there under such keys has no row here.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import InstrumentedAttribute

from moderation.checkpoints import PLACE
from moderation.db import transaction
from moderation.storage import Storage, snapshot_key
from moderation.tables import Image, ModelVersion, Tenant, TrainingRun, Upload

log = logging.getLogger(__name__)

# Far longer than any request, or any worker, takes between the two.
OLDER_THAN = timedelta(days=1)
PAGE = 1000

_ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DIGEST = "[0-9a-f]{64}"


@dataclass(frozen=True, eq=False)
class Kind:
    """Objects whose keys begin alike, and the rows that speak of them.

    `rest` is how a key of ours goes on, and `row` makes of its group what `column` has in a row that is `wanted`.
    """

    prefix: str
    rest: str
    row: Callable[[str], Any]
    column: InstrumentedAttribute[Any]
    wanted: ColumnElement[bool]

    def named(self, keys: Iterable[str]) -> dict[str, Any]:
        """What the row of each key is known by; keys that are not ours are left out."""
        ours = re.compile(re.escape(self.prefix) + self.rest)
        return {key: self.row(match[1]) for key in keys if (match := ours.fullmatch(key))}

    @property
    def of_tenants(self) -> bool:
        """Whether a tenant's id comes next in its keys."""
        return self.rest.startswith(f"{_ID}/")


_IMAGE = (UUID, Image.id, Image.purged_at.is_(None))  # of one that was erased and purged the row stays
KINDS = (
    Kind("originals/", f"{_ID}/({_ID})", *_IMAGE),
    Kind("renditions/", f"{_ID}/({_ID})", *_IMAGE),
    Kind("views/", f"{_ID}/({_ID})/.+", *_IMAGE),
    Kind("uploads/", f"{_ID}/({_ID})", UUID, Upload.id, true()),
    Kind(
        "adapters/",
        f"({_DIGEST})/.+",
        (PLACE + "{}").format,
        ModelVersion.checkpoint,
        ModelVersion.removed_at.is_(None),
    ),
    Kind("snapshots/", f"({_DIGEST})[.]json", snapshot_key, TrainingRun.snapshot_key, true()),
)


class Sweep:
    """One way round the bucket, over and over. Several processes may each have their own."""

    def __init__(self, kind: Kind = KINDS[0], after: str = "", *, older_than: timedelta = OLDER_THAN) -> None:
        self._kind = kind
        self._after = after
        self._older_than = older_than

    @classmethod
    def anywhere(cls) -> Sweep:
        """Begin at some kind and tenant: a process that is restarted often still comes by everything in time."""
        kind = random.choice(KINDS)
        with transaction() as session:
            tenant = session.scalar(select(Tenant.id).order_by(func.random()).limit(1))
        return cls(kind, f"{kind.prefix}{tenant}" if tenant and kind.of_tenants else "")

    @property
    def at_start(self) -> bool:
        """Whether the next turn begins a round."""
        return (self._kind, self._after) == (KINDS[0], "")

    def turn(self, storage: Storage) -> int:
        """Look at the next page and delete what is in no row; returns how many. Raises StorageUnavailable.

        What is not named as we name things is somebody else's, and is left alone.
        """
        page = storage.listed(self._kind.prefix, after=self._after, limit=PAGE)
        before = datetime.now(UTC) - self._older_than
        named = self._kind.named([one.key for one in page])
        if foreign := [one.key for one in page if one.key not in named]:
            log.warning("%d keys are not ours and are left alone, such as %r", len(foreign), foreign[0])
        old = {one.key for one in page if one.modified < before}
        orphans = _of_no_row(self._kind, {key: row for key, row in named.items() if key in old})
        for key in orphans:
            log.info("%s is in no row", key)
        storage.delete_all(orphans)
        self._after = page[-1].key if len(page) == PAGE else ""
        if not self._after:
            self._kind = KINDS[(KINDS.index(self._kind) + 1) % len(KINDS)]
        return len(orphans)


def _of_no_row(kind: Kind, named: dict[str, Any]) -> list[str]:
    """Those keys whose row is not there, or wants them no more."""
    known = select(kind.column).where(kind.column.in_(set(named.values())), kind.wanted)
    with transaction() as session:
        kept = set(session.scalars(known))
    return [key for key, row in named.items() if row not in kept]
