"""A worker's hold on something that waits: who took it last, and until when. It knows no tables.

Whatever is leased has the columns `lease_until` and `fence`; what was taken anew has a newer fence, and whoever held it
before writes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import InstrumentedAttribute, Session


@dataclass(frozen=True)
class Lease:
    """A worker's hold on a case, or on work whose key is `case_id`.

    `attempt` counts from 1; above 1 an earlier attempt was lost with its worker.
    """

    case_id: UUID
    fence: int
    attempt: int


def renew(session: Session, key: InstrumentedAttribute[UUID], leases: Sequence[Lease], lease: timedelta) -> None:
    """Push the leases that a living worker still holds further into the future; `key` names their rows."""
    if not leases:
        return
    table = key.class_.__tablename__
    session.execute(
        text(
            f"UPDATE {table} SET lease_until = now() + :lease FROM unnest(:ids, :fences) AS held(id, fence) "
            f"WHERE {table}.{key.key} = held.id AND {table}.fence = held.fence AND {table}.lease_until IS NOT NULL"
        ),
        {"lease": lease, "ids": [held.case_id for held in leases], "fences": [held.fence for held in leases]},
    )
