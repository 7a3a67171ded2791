"""Back-pressure: whether there is room for more cases that wait, of one tenant and of all of them together.

What waits is counted in the index of waiting cases, which the settled ones are not in, and never further than to the
limit. A count is good until so many cases could have come that the limit is reached, so that it is made seldom where
there is much room; while there is none, others are turned away without asking. Each process counts for itself: several
may together go over a limit by what they take in within a moment. With 1,000,000 settled and 300,000 waiting cases a
count up to the default limits took 38 ms for a tenant and 68 ms for all (medians of 9, two cores, beside other work).
It knows neither HTTP nor what comes in.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from moderation.db import autonomous
from moderation.errors import ServiceBusy, TooBusy
from moderation.settings import Settings
from moderation.tables import WAITING

RETRY_AFTER_S = 30
# More than all processes take in.
CASES_PER_S = 2000
# A count is good for no longer, however much room there was; and for so long where there was none.
LONGEST_S, FULL_S = 5.0, 1.0

# The statuses are spelled out, or Postgres would not see that the partial index has all it needs.
_OF_TENANT = text(
    f"SELECT count(*) FROM (SELECT FROM cases WHERE tenant_id = :tenant AND {WAITING} LIMIT :limit) AS ahead"
)
_OF_ALL = text(f"SELECT count(*) FROM (SELECT FROM cases WHERE {WAITING} LIMIT :limit) AS ahead")


@dataclass(frozen=True)
class _Count:
    """What was counted, up to a limit, and until when on the monotonic clock it is good."""

    waiting: int
    until: float


# By tenant (None: all together) and limit.
_counts: dict[tuple[UUID | None, int], _Count] = {}


def refuse_if_full(tenant_id: UUID, settings: Settings) -> None:
    """Raises TooBusy where too many of a tenant's own cases wait, ServiceBusy where too many of all do."""
    if _is_full(tenant_id, settings.max_waiting_cases):
        raise TooBusy(
            f"{settings.max_waiting_cases} of your cases are waiting, which is the limit; send again when some are "
            "settled.",
            retry_after=RETRY_AFTER_S,
        )
    if _is_full(None, settings.max_waiting_in_all):
        raise ServiceBusy(
            "As many cases are waiting as the whole service takes, whoever sent them; send again later.",
            retry_after=RETRY_AFTER_S,
        )


def _is_full(tenant_id: UUID | None, limit: int) -> bool:
    now = time.monotonic()
    known = _counts.get((tenant_id, limit))
    if known is None or now >= known.until:
        if known is not None:  # one counts; whoever comes meanwhile goes by the count before
            _counts[(tenant_id, limit)] = _Count(known.waiting, now + FULL_S)
        known = _counts[(tenant_id, limit)] = _counted(tenant_id, limit, now)
    return known.waiting >= limit


def _counted(tenant_id: UUID | None, limit: int, now: float) -> _Count:
    with autonomous() as connection:
        query, whose = (_OF_TENANT, {"tenant": tenant_id}) if tenant_id else (_OF_ALL, {})
        waiting = connection.scalar(query, {"limit": limit, **whose}) or 0
    good_for_s = min((limit - waiting) / CASES_PER_S, LONGEST_S) if waiting < limit else FULL_S
    return _Count(waiting, now + good_for_s)
