"""Objects that no row speaks of: bytes that were stored before a commit that then failed, swept after a day.

Bytes go to the object store before the rows that speak of them, so whoever is killed in between leaves an object and
nothing else. A sweep goes round the bucket a page at a time and remembers only where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select

from moderation.db import transaction
from moderation.storage import Storage
from moderation.tables import Image, Tenant

log = logging.getLogger(__name__)

# Far longer than any request, or any worker, takes between the two.
OLDER_THAN = timedelta(days=1)
PAGE = 1000
# What is stored of images; each key is `<kind>/<tenant>/<image>`, with more behind it for views.
KINDS = ("originals/", "renditions/", "views/")


class Sweep:
    """One way round the bucket, over and over. Several processes may each have their own."""

    def __init__(self, kind: str = KINDS[0], after: str = "", *, older_than: timedelta = OLDER_THAN) -> None:
        self._kind = kind
        self._after = after
        self._older_than = older_than

    @classmethod
    def anywhere(cls) -> Sweep:
        """Begin at some tenant: a process that is restarted often still comes by everything in time."""
        with transaction() as session:
            tenant = session.scalar(select(Tenant.id).order_by(func.random()).limit(1))
        return cls(after=f"{KINDS[0]}{tenant}") if tenant else cls()

    @property
    def at_start(self) -> bool:
        """Whether the next turn begins a round."""
        return (self._kind, self._after) == (KINDS[0], "")

    def turn(self, storage: Storage) -> int:
        """Look at the next page and delete what is in no row; returns how many. Raises StorageUnavailable."""
        page = storage.listed(self._kind, after=self._after, limit=PAGE)
        before = datetime.now(UTC) - self._older_than
        orphans = _of_no_row([one.key for one in page if one.modified < before])
        for key in orphans:
            log.info("%s is in no row", key)
        storage.delete_all(orphans)
        self._after = page[-1].key if len(page) == PAGE else ""
        if not self._after:
            self._kind = KINDS[(KINDS.index(self._kind) + 1) % len(KINDS)]
        return len(orphans)


def _of_no_row(keys: Sequence[str]) -> list[str]:
    """Those of images that are in no row, or were erased and purged."""
    ids = {key: UUID(key.split("/")[2]) for key in keys}
    known = select(Image.id).where(Image.id.in_(ids.values()), Image.purged_at.is_(None))
    with transaction() as session:
        kept = set(session.scalars(known))
    return [key for key, id_ in ids.items() if id_ not in kept]
